"""The probe as a whole: one machine, or every machine of a torchrun job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from holmes.errors import UnavailableError
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

    Alone it describes one machine. Under torchrun every rank takes part, one per
    machine measures, and rank 0 returns the site.

    Raises:
        UnavailableError: when a rank does not answer or the store cannot be reached.
    """
    world = int(environ.get("WORLD_SIZE", "1"))
    rank = int(environ.get("RANK", "0"))
    mine = describe_machine(repeats=QUICK_REPEATS if quick else REPEATS)
    if world == 1:
        found = find_clusters((mine,), {})
        return ProbeResult(site_text(name, (mine,), found, {}), (mine,), found)
    exchange = Exchange(_store(), rank, world, DEADLINE_SECONDS)
    everybody = [NodeFacts.from_json(each) for each in exchange.all_gather("facts", mine.to_json())]
    first: dict[str, int] = {}
    for other, facts in enumerate(everybody):
        first.setdefault(facts.identity, other)
    leaders = sorted(first.values())
    nodes = _distinct(tuple(everybody[leader] for leader in leaders))
    reach = measure_reach(exchange, nodes, leaders.index(rank) if rank in leaders else None)
    exchange.all_gather("end", True)
    if rank != 0:
        return None
    found = find_clusters(nodes, reach)
    return ProbeResult(site_text(name, nodes, found, reach), nodes, found)


def _distinct(nodes: tuple[NodeFacts, ...]) -> tuple[NodeFacts, ...]:
    """The nodes with their number added to host names that occur twice."""
    names = [node.name for node in nodes]
    return tuple(
        replace(node, name=f"{node.name}-{i}") if names.count(node.name) > 1 else node
        for i, node in enumerate(nodes)
    )


def _store() -> Store:
    """The rendezvous store of the torchrun job."""
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(iter(rendezvous("env://")))
    except Exception as error:
        raise UnavailableError(
            "cannot reach the rendezvous store",
            where=f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}",
            why=str(error).splitlines()[0][:120],
            next_step="check MASTER_ADDR and that the port is open from every node",
        ) from None
    return cast(Store, store)
