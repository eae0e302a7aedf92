"""The probe as a whole: one machine, or every machine of a torchrun job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import cast

from holmes.errors import UnavailableError
from holmes.launch.environment import RankEnvironment, from_environ, launcher_of
from holmes.probe.clusters import Found, find_clusters
from holmes.probe.facts import NodeFacts
from holmes.probe.machine import describe_machine
from holmes.probe.reach import Exchange, Store, measure_reach
from holmes.probe.write import site_text

REPEATS = 9
QUICK_REPEATS = 3
DEADLINE_SECONDS = 120.0


@dataclass(frozen=True)
class ProbeResult:
    """What the first rank ends with; other ranks get None."""

    text: str
    nodes: tuple[NodeFacts, ...]
    found: Found


def probe(name: str, *, quick: bool, environ: Mapping[str, str] = os.environ) -> ProbeResult | None:
    """Describe, measure and group all machines this was started on.

    Alone it describes one machine. Under torchrun or Slurm every rank takes part, one
    per machine measures, and rank 0 returns the site.

    Raises:
        ConfigError: the launcher's variables are missing or contradict each other.
        UnavailableError: when a rank does not answer or the store cannot be reached.
    """
    repeats = QUICK_REPEATS if quick else REPEATS
    if launcher_of(environ) is None:
        alone = (replace(describe_machine(repeats=repeats), host=""),)
        found = find_clusters(alone, {})
        return ProbeResult(site_text(name, alone, found, {}), alone, found)
    here = from_environ(environ)
    exchange = Exchange(
        open_store(here, DEADLINE_SECONDS), here.launch_rank, here.world_size, DEADLINE_SECONDS
    )
    mine = describe_machine(repeats=repeats)
    everybody = [NodeFacts.from_json(each) for each in exchange.all_gather("facts", mine.to_json())]
    first: dict[str, int] = {}
    for other, facts in enumerate(everybody):
        first.setdefault(facts.identity, other)
    leaders = sorted(first.values())
    nodes = distinct(tuple(everybody[leader] for leader in leaders))
    me = leaders.index(here.launch_rank) if here.launch_rank in leaders else None
    reach = measure_reach(exchange, nodes, me)
    exchange.leave()
    if here.launch_rank != 0:
        return None
    found = find_clusters(nodes, reach)
    return ProbeResult(site_text(name, nodes, found, reach), nodes, found)


def distinct(nodes: tuple[NodeFacts, ...]) -> tuple[NodeFacts, ...]:
    """The nodes with their number added to host names that occur twice, which tell nothing."""
    names = [node.name for node in nodes]
    return tuple(
        replace(node, name=f"{node.name}-{i}", host="") if names.count(node.name) > 1 else node
        for i, node in enumerate(nodes)
    )


def open_store(here: RankEnvironment, deadline_seconds: float) -> Store:
    """The rendezvous store of the job: torchrun's, or one that rank 0 opens.

    Raises:
        UnavailableError: it cannot be opened, or not reached in time.
    """
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    where = f"{here.master_address}:{here.master_port}"
    try:
        store = TCPStore(
            here.master_address,
            here.master_port,
            is_master=here.hosts_store,
            wait_for_workers=False,
            timeout=timedelta(seconds=deadline_seconds),
        )
    except Exception as error:
        raise UnavailableError(
            "cannot reach the rendezvous store",
            where=f"rank {here.launch_rank}, {where}",
            why=str(error).splitlines()[0][:120],
            next_step="check MASTER_ADDR, and that the port is free there and open from every node",
        ) from None
    return cast(Store, PrefixStore(f"attempt/{here.attempt}", store))
