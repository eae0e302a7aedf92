"""The doctor as a whole: one machine, or every machine of a torchrun or Slurm job."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from holmes.hardware.site import Site
from holmes.hardware.topology import Node, Topology
from holmes.launch.environment import RankEnvironment, device_index, from_environ, launcher_of
from holmes.probe.doctor.clocks import measure_clocks
from holmes.probe.doctor.communicators import probe_communicators, why_not
from holmes.probe.doctor.finding import Finding, skip, warn
from holmes.probe.doctor.machine import check_machine
from holmes.probe.doctor.site import check_site
from holmes.probe.doctor.state import MachineState, read_state
from holmes.probe.doctor.variables import check_variables
from holmes.probe.facts import NodeFacts
from holmes.probe.machine import identity
from holmes.probe.probe import open_store
from holmes.probe.reach import Exchange, measure_reach


@dataclass(frozen=True)
class Asked:
    """What the doctor is asked: the site (or None), where runs go, the rendezvous' port."""

    site: Site | None
    folder: Path
    port: int
    deadline_seconds: float
    communicators: bool = False


def examine(asked: Asked, environ: Mapping[str, str] = os.environ) -> list[Finding] | None:
    """Examine this machine; under a launcher all machines. None on ranks but the first.

    Raises:
        ConfigError: the launcher's variables contradict each other or the site.
        UnavailableError: a rank does not answer, or the store cannot be reached.
    """
    topology = None if asked.site is None else Topology(asked.site)
    if launcher_of(environ) is None:
        state = read_state(asked.folder, asked.port, environ)
        node = node_named(topology, environ.get("HOLMES_NODE") or state.name)
        found = _of_machine(state, topology, node)
        if asked.communicators:
            found.append(skip("communicators", f"not probed: {why_not([state])}"))
        return found
    here = from_environ(environ)
    exchange = Exchange(
        open_store(here, asked.deadline_seconds),
        here.launch_rank,
        here.world_size,
        asked.deadline_seconds,
    )
    state = read_state(asked.folder, asked.port, environ, ask_port=False)
    name = _node_of(topology, here).name if topology is not None else None
    told = {"identity": identity(), "state": state.to_json(), "node": name}
    everybody = exchange.all_gather("states", told)
    leaders = _leaders([each["identity"] for each in everybody])
    states = _distinct([MachineState.from_json(everybody[rank]["state"]) for rank in leaders])
    nodes = [node_named(topology, everybody[rank]["node"] or "") for rank in leaders]
    me = leaders.index(here.launch_rank) if here.launch_rank in leaders else None
    reach = measure_reach(exchange, [_facts(each) for each in states], me)
    clocks = measure_clocks(exchange, leaders)
    pairs: list[Finding] = []
    if asked.communicators:
        pairs = probe_communicators(exchange, states, me, here.master_address)
    exchange.leave()
    if here.launch_rank != 0:
        return None
    findings: list[Finding] = []
    for each, node in zip(states, nodes, strict=True):
        findings += _of_machine(each, topology, node)
    return [*findings, *check_site(states, nodes, reach, clocks, topology), *pairs]


def _of_machine(state: MachineState, topology: Topology | None, node: Node | None) -> list[Finding]:
    found = [*check_machine(state, node), *check_variables(state, node)]
    if topology is not None and node is None:
        found.append(
            warn(
                "site",
                "this machine is none of the site's nodes, so its cards were not compared",
                "set HOLMES_NODE, name its host in the site (`hosts`), or start with torchrun",
            )
        )
    return [replace(each, node=state.name) for each in found]


def _node_of(topology: Topology, here: RankEnvironment) -> Node:
    return topology.devices[device_index(topology, here)].node


def node_named(topology: Topology | None, name: str) -> Node | None:
    """The node of this name or host; the only one where the site has one."""
    if topology is None:
        return None
    for node in topology.nodes:
        if name in (node.name, node.host):
            return node
    return topology.nodes[0] if len(topology.nodes) == 1 else None


def _leaders(identities: Sequence[str]) -> list[int]:
    first: dict[str, int] = {}
    for rank, identity_ in enumerate(identities):
        first.setdefault(identity_, rank)
    return sorted(first.values())


def _distinct(states: list[MachineState]) -> list[MachineState]:
    names = [state.name for state in states]
    return [
        replace(state, name=f"{state.name}-{i}") if names.count(state.name) > 1 else state
        for i, state in enumerate(states)
    ]


def _facts(state: MachineState) -> NodeFacts:
    """What measuring the paths needs to know of a machine."""
    return NodeFacts(state.name, "", "", state.devices, state.device_name, 0.0, 0.0, state.nics)
