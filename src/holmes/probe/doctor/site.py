"""What is judged between the machines of a site: versions, clocks, paths, frame sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from holmes.hardware.site import Fabric
from holmes.hardware.topology import Node, Topology
from holmes.probe.clusters import Reach, both_ways
from holmes.probe.doctor.clocks import ClockOffset
from holmes.probe.doctor.finding import Finding, fail, ok, warn
from holmes.probe.doctor.state import MachineState

MUST_AGREE = ("holmes", "torch", "nccl")
CLOSE_SECONDS, APART_SECONDS = 0.1, 10.0
"""Clocks further apart than the first make logs hard to read; than the second, they make a
checkpoint look older than the run that wrote it."""


def check_site(
    states: Sequence[MachineState],
    nodes: Sequence[Node | None],
    reach: Reach,
    clocks: Sequence[ClockOffset],
    topology: Topology | None,
) -> Iterator[Finding]:
    """Checks of all machines together; without a site only what needs none."""
    yield from _versions(states)
    yield from _clocks(states, clocks)
    yield from _frames(states, nodes)
    yield from _paths(states, nodes, reach, topology)


def _versions(states: Sequence[MachineState]) -> Iterator[Finding]:
    apart = False
    for name in dict.fromkeys(key for state in states for key in state.versions):
        by_version: dict[str, list[str]] = {}
        for state in states:
            by_version.setdefault(state.versions.get(name) or "not installed", []).append(
                state.name
            )
        if len(by_version) > 1:
            apart = True
            said = "; ".join(f"{version} on {', '.join(on)}" for version, on in by_version.items())
            say = fail if name in MUST_AGREE else warn
            yield say("same versions", f"{name}: {said}", "install the same one everywhere")
    if not apart:
        yield ok("same versions", f"{len(states)} machines agree")


def _clocks(states: Sequence[MachineState], clocks: Sequence[ClockOffset]) -> Iterator[Finding]:
    """Offsets beyond what the exchange itself can be off by."""
    for state, clock in zip(states, clocks, strict=True):
        sure = max(0.0, abs(clock.seconds) - clock.error)
        said = f"{state.name} is {clock.seconds:+.3f} s (+-{clock.error:.3f}) from the first"
        if sure > CLOSE_SECONDS:
            say = fail if sure > APART_SECONDS else warn
            yield say("clocks", said, "let chrony or ntpd set the clocks")
    if all(abs(clock.seconds) - clock.error <= CLOSE_SECONDS for clock in clocks):
        widest = max((abs(clock.seconds) for clock in clocks), default=0.0)
        yield ok("clocks", f"within {widest:.3f} s of each other")


def _frames(states: Sequence[MachineState], nodes: Sequence[Node | None]) -> Iterator[Finding]:
    """Frame sizes of one fabric that differ inside a cluster: large messages stall there."""
    sizes: dict[tuple[str, Fabric], dict[int, list[str]]] = {}
    for state, node in zip(states, nodes, strict=True):
        for nic in state.nics:
            key = (node.cluster if node is not None else "", nic.kind)
            size = state.mtus.get(nic.interface, 0)
            if size:
                sizes.setdefault(key, {}).setdefault(size, []).append(
                    f"{state.name} {nic.interface}"
                )
    for (cluster, kind), found in sizes.items():
        if len(found) > 1:
            said = "; ".join(f"MTU {size} on {', '.join(on)}" for size, on in found.items())
            where = f" of cluster {cluster}" if cluster else ""
            yield warn("frames", f"{kind.value}{where}: {said}", "set one MTU on all of them")


def _paths(
    states: Sequence[MachineState],
    nodes: Sequence[Node | None],
    reach: Reach,
    topology: Topology | None,
) -> Iterator[Finding]:
    """Every pair of machines over every network that the site says joins them."""
    lost: list[str] = []
    rates: dict[Fabric, list[float]] = {}
    silent: set[Fabric] = set()
    for a, b in combinations(range(len(states)), 2):
        for fabric in _wanted(nodes[a], nodes[b], topology):
            rate = both_ways(reach, a, b, fabric)
            if not (_addressed(states[a], fabric) and _addressed(states[b], fabric)):
                silent.add(fabric)
            elif rate is None:
                lost.append(f"{states[a].name} and {states[b].name} over {fabric.value}")
            else:
                rates.setdefault(fabric, []).append(rate)
    for pair in lost:
        yield fail(
            "reachability",
            f"{pair}: no connection in both directions",
            "check addresses, routes, firewall and cabling between the two; holmes probe "
            "writes a site of what works",
        )
    for fabric in sorted(silent):
        yield warn(
            "reachability",
            f"{fabric.value} has no IP address on some machine, so no connection was tried",
            "holmes doctor --communicators passes traffic over it",
        )
    yield from _slow(rates)
    if not lost:
        yield ok("reachability", f"{len(states)} machines reach each other as the site says")


def _addressed(state: MachineState, fabric: Fabric) -> bool:
    return any(nic.kind is fabric and nic.address for nic in state.nics)


def _slow(rates: Mapping[Fabric, Sequence[float]]) -> Iterator[Finding]:
    """A pair far slower than the others on its network, by one stream of plain TCP."""
    for fabric, found in rates.items():
        middle = sorted(found)[len(found) // 2]
        said = f"{fabric.value}: one TCP stream, {min(found):.3g} to {max(found):.3g} Gbit/s"
        if len(found) > 2 and min(found) < middle / 4:
            yield warn("rates", said, "one pair is far slower: check its cable and port")
        else:
            yield ok("rates", said)


def _wanted(a: Node | None, b: Node | None, topology: Topology | None) -> tuple[Fabric, ...]:
    """Networks that should join two machines; where the site is unknown, Ethernet."""
    if a is None or b is None or topology is None:
        return (Fabric.ETHERNET,)
    return tuple(path.fabric for path in topology.paths((a, b)))
