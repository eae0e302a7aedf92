"""Network: what a transfer or a collective asks of the cards and links it crosses.

Resources are the two directions of each NIC entry of a node, of each link
between clusters, and of each device's link inside its node. An operation
becomes *flows*: bytes over a set of resources. Who shares what, and how fast
flows then run, is the simulator's business; here is only the demand, and the
time an operation takes when it is alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from holmes.cost.calibration import Calibration, LinkCalibration
from holmes.cost.collectives import (
    SMALL_BYTES,
    SMALL_STEP,
    Algorithm,
    Hop,
    Phase,
    Way,
    direct,
    ring,
    ways,
)
from holmes.errors import ConfigError
from holmes.hardware.catalogue import resolve
from holmes.hardware.site import Fabric
from holmes.hardware.topology import DeviceSlot, Node, Topology
from holmes.schedule.instruction import Op

Rates = Mapping["tuple[int, Fabric] | int", float]
"""Gbit/s that replace the site's: by (node index, fabric) for a NIC entry as a
whole, by index in ``site.links`` for a link. Given for a rehearsal; then the
site's own latencies do not apply either."""

GBIT = 1e9 / 8
DEVICE = "/device"
"""In the name of a resource: a device's link inside its node."""


@dataclass(frozen=True)
class Flow:
    """``bytes`` over every one of ``resources``; ``weight`` equal connections in one.

    ``cap`` bounds the flow's rate by itself, bytes per second.
    """

    resources: tuple[str, ...]
    bytes: float
    weight: int = 1
    cap: float = math.inf


@dataclass(frozen=True)
class Traffic:
    """An operation: after ``latency`` seconds its flows run, and it ends with the last.

    ``seconds`` is its time with the network to itself. ``algorithm`` says how a collective
    is done; the flows of one in several phases run all the while, each at its mean rate.
    """

    latency: float
    flows: tuple[Flow, ...]
    seconds: float
    algorithm: Algorithm = "point-to-point"


@dataclass(frozen=True)
class Network:
    """The network of a site as the logical ranks of one placement see it.

    ``rank_map[i]`` is the device of logical rank i. ``capacity`` is in bytes
    per second, after efficiency.
    """

    topology: Topology
    rank_map: tuple[int, ...]
    calibration: Calibration
    rates: Rates | None = None

    @cached_property
    def capacity(self) -> dict[str, float]:
        """Bytes per second of each resource that has been used so far."""
        return {}

    @cached_property
    def _slots(self) -> tuple[DeviceSlot, ...]:
        devices = self.topology.devices
        return tuple(devices[index] for index in self.rank_map)

    @cached_property
    def _openings(self) -> dict[tuple[object, ...], float]:
        """By what two nodes are, not which: hops between equal nodes are equal."""
        return {}

    @cached_property
    def _latencies(self) -> dict[tuple[object, ...], float]:
        return {}

    @cached_property
    def _caps(self) -> dict[tuple[object, ...], float]:
        return {}

    @cached_property
    def _names(self) -> dict[tuple[object, ...], str]:
        """Names of resources whose capacity is known."""
        return {}

    @cached_property
    def _memo(self) -> dict[tuple[object, ...], Traffic]:
        return {}

    def transfer(self, source: int, target: int, bytes_: float, fabric: Fabric | None) -> Traffic:
        """One message from a logical rank to another."""
        key = (source, target, bytes_, fabric)
        if key not in self._memo:
            flow = self._flow(source, target, bytes_, fabric)
            latency = self._latency(source, target, fabric)
            latency += self._opening(Hop(source, target, bytes_, 1.0), fabric)
            link = self._link(source, target, fabric)
            self._memo[key] = self._traffic(link.latency_seconds + latency, [flow])
        return self._memo[key]

    def collective(
        self, op: Op, ranks: Sequence[int], bytes_: float, fabric: Fabric | None
    ) -> Traffic:
        """A collective over ``ranks`` with a payload of ``bytes_`` at full size.

        reduce_scatter and all_gather move (n-1)/n of the payload out of and into
        every member, all_reduce twice that.
        """
        key = (op, tuple(ranks), bytes_, fabric)
        if key not in self._memo:
            self._memo[key] = self._cheapest(op, tuple(ranks), bytes_, fabric)
        return self._memo[key]

    def all_to_all(self, ranks: Sequence[int], bytes_: float, fabric: Fabric | None) -> Traffic:
        """Every member sends 1/n of its ``bytes_`` to every member, as experts' tokens go."""
        key = ("all-to-all", tuple(ranks), bytes_, fabric)
        if key not in self._memo:
            self._memo[key] = self._direct(tuple(ranks), bytes_, fabric)
        return self._memo[key]

    def together(self, operations: Sequence[Traffic]) -> Traffic:
        """Several operations that start at once, as one."""
        latency = max((one.latency for one in operations), default=0.0)
        return self._traffic(latency, [flow for one in operations for flow in one.flows])

    def side_by_side(self, one: Traffic, count: int) -> Traffic:
        """The same operation of ``count`` groups at once, whose members are neighbours in the
        same nodes: they share cards and links, and each has its own devices."""
        if count == 1:
            return one
        flows = [
            flow
            if DEVICE in flow.resources[0]
            else replace(
                flow, bytes=flow.bytes * count, weight=flow.weight * count, cap=flow.cap * count
            )
            for flow in one.flows
        ]
        return self._traffic(one.latency, flows, one.algorithm)

    def _cheapest(
        self, op: Op, ranks: tuple[int, ...], bytes_: float, fabric: Fabric | None
    ) -> Traffic:
        if self.calibration.collectives == "direct":
            if op is not Op.ALL_REDUCE:
                return self._direct(ranks, bytes_, fabric)
            way = Way("ring", (ring(op, self._by_node(ranks), bytes_),))
            return self._way(way, ranks, fabric, small=False)
        nodes = self._by_node(ranks)
        adds = len(nodes) == 1 and resolve(self._slots[ranks[0]].node.device).in_switch_reduction
        small = bytes_ <= SMALL_BYTES
        legal = ways(op, nodes, bytes_, switch_adds=adds)
        found = [self._way(way, ranks, fabric, small=small) for way in legal]
        return min(found, key=lambda traffic: traffic.seconds)

    def _by_node(self, ranks: Sequence[int]) -> list[list[int]]:
        """The ranks on each node, nodes in file order."""
        nodes: dict[int, list[int]] = {}
        for rank in sorted(ranks, key=lambda rank: (self._slots[rank].node.index, rank)):
            nodes.setdefault(self._slots[rank].node.index, []).append(rank)
        return list(nodes.values())

    def _direct(self, ranks: tuple[int, ...], bytes_: float, fabric: Fabric | None) -> Traffic:
        """Every member sends one chunk to every other member, all at the same time."""
        bundles: dict[tuple[str, ...], list[Flow]] = {}
        wait = 0.0
        for hop in direct(self._by_node(ranks), bytes_).hops:
            flow = self._flow(hop.source, hop.target, hop.bytes, fabric)
            bundles.setdefault(flow.resources, []).append(flow)
            wait = max(wait, self._latency(hop.source, hop.target, fabric))
        flows = [
            Flow(path, same[0].bytes * len(same), len(same), sum(flow.cap for flow in same))
            for path, same in bundles.items()
        ]
        link = self._group_link(ranks, fabric)
        return self._traffic(link.latency_seconds + wait, flows, "direct")

    def _way(
        self, way: Way, ranks: tuple[int, ...], fabric: Fabric | None, *, small: bool
    ) -> Traffic:
        """What an algorithm asks for; phases in a row hold each flow to its mean rate."""
        step = SMALL_STEP if small else 1.0
        latency = self._group_link(ranks, fabric).latency_seconds
        flows: list[Flow] = []
        on_wire = 0.0
        for phase in way.phases:
            latency += step * sum(self._wait(hop, fabric) for hop in phase.hops)
            made = [
                self._flow(hop.source, hop.target, hop.bytes, fabric, hop.rails)
                for hop in phase.hops
            ]
            latency += max((self._opening(hop, fabric) for hop in phase.hops), default=0.0)
            alone = max(self._alone(made), self._ports_seconds(phase, made))
            alone = alone / phase.share + self._local_seconds(phase)
            on_wire += alone
            flows += made
        if on_wire > self._alone(flows) > 0.0:
            flows = [replace(flow, cap=min(flow.cap, flow.bytes / on_wire)) for flow in flows]
        return self._traffic(latency, flows, way.algorithm)

    def _wait(self, hop: Hop, fabric: Fabric | None) -> float:
        return hop.waits * self._latency(hop.source, hop.target, fabric) if hop.waits else 0.0

    def _ports_seconds(self, phase: Phase, flows: Sequence[Flow]) -> float:
        """Seconds of the busiest member, whose hops share the ports that it drives."""
        busy: dict[tuple[str, int], float] = {}
        for hop, flow in zip(phase.hops, flows, strict=True):
            for end in (("tx", hop.source), ("rx", hop.target)):
                busy[end] = busy.get(end, 0.0) + flow.bytes / flow.cap
        return max(busy.values(), default=0.0)

    def _local_seconds(self, phase: Phase) -> float:
        """Seconds of the payload's way through the memory of the slowest member."""
        passes = self.calibration.link("intra-node").passes
        if not phase.local or not passes:
            return 0.0
        slots = {id(s.node.group): s for s in (self._slots[hop.source] for hop in phase.hops)}
        rates = [resolve(slot.node.device).memory_gbytes_s for slot in slots.values()]
        return max(passes * phase.local / (rate * 1e9) for rate in rates if rate is not None)

    def _opening(self, hop: Hop, fabric: Fabric | None) -> float:
        """Seconds until the connections of a hop between nodes are at full rate."""
        a, b = self._slots[hop.source].node, self._slots[hop.target].node
        if a.index == b.index or fabric is None or self.rates:
            return 0.0
        key = (*_ends(a, b), fabric, hop.bytes, hop.rails)
        if key not in self._openings:
            link = self.calibration.link(fabric.value)
            wait = self._latency(hop.source, hop.target, fabric)
            flow = self._flow(hop.source, hop.target, hop.bytes, fabric, hop.rails)
            rate = min([flow.cap, *(self.capacity[name] for name in flow.resources)])
            self._openings[key] = link.opening_seconds(
                hop.bytes / hop.rails, rate / hop.rails, wait
            )
        return self._openings[key]

    def _traffic(
        self, latency: float, flows: list[Flow], algorithm: Algorithm = "point-to-point"
    ) -> Traffic:
        return Traffic(latency, tuple(flows), latency + self._alone(flows), algorithm)

    def _alone(self, flows: Sequence[Flow]) -> float:
        """Seconds of flows with the network to themselves."""
        load: dict[str, float] = {}
        for flow in flows:
            for resource in flow.resources:
                load[resource] = load.get(resource, 0.0) + flow.bytes
        alone = max((bytes_ / self.capacity[name] for name, bytes_ in load.items()), default=0.0)
        return max([alone, *(flow.bytes / flow.cap for flow in flows)])

    def _flow(
        self, source: int, target: int, bytes_: float, fabric: Fabric | None, rails: int = 1
    ) -> Flow:
        a, b = self._slots[source], self._slots[target]
        if a.node.index == b.node.index:
            return Flow((self._device(a, "tx"), self._device(b, "rx")), bytes_)
        if fabric is None:
            raise ConfigError(
                f"ranks {source} and {target} are on different nodes but have no network between",
                where=f"{a.node.name}, {b.node.name}",
                why="their group's transport is intra-node",
                next_step="plan again with `holmes plan`",
            )
        path = [self._nic(a.node, fabric, "tx")]
        if a.node.cluster != b.node.cluster:
            path.append(self._between(a.node, b.node, fabric))
        path.append(self._nic(b.node, fabric, "rx"))
        cap = min(self._rail_cap(node, fabric, rails) for node in (a.node, b.node))
        return Flow(tuple(path), bytes_, 1, cap)

    def _rail_cap(self, node: Node, fabric: Fabric, rails: int) -> float:
        """A member drives one port over one connection; a rehearsal has one port per entry."""
        if self.rates and (node.index, fabric) in self.rates:
            return math.inf
        key = (id(node.group), fabric, rails)
        if key not in self._caps:
            self._caps[key] = self._one_rail_cap(node, fabric, rails)
        return self._caps[key]

    def _one_rail_cap(self, node: Node, fabric: Fabric, rails: int) -> float:
        nic = node.nic(fabric)
        assert nic is not None
        ports = min(rails, nic.count)
        link = self.calibration.link(fabric.value)
        cap = link.bytes_per_second(nic.gbit_s * ports * GBIT, rails)
        line = link.bytes_per_second(nic.total_gbit_s * GBIT)
        return math.inf if ports == nic.count and cap >= line else cap

    def _nic(self, node: Node, fabric: Fabric, direction: str) -> str:
        key = (node.index, fabric, direction)
        if key not in self._names:
            name = self._names[key] = f"{node.name}/{fabric.value}/{direction}"
            nic = node.nic(fabric)
            if nic is None:
                raise ConfigError(f"node {node.name} has no {fabric.value} card", where=node.name)
            gbit_s = (self.rates or {}).get((node.index, fabric), nic.total_gbit_s)
            link = self.calibration.link(fabric.value)
            self.capacity[name] = link.bytes_per_second(gbit_s * GBIT)
        return self._names[key]

    def _between(self, a: Node, b: Node, fabric: Fabric) -> str:
        name = f"{a.cluster}>{b.cluster}/{fabric.value}"
        if name not in self.capacity:
            link = self.topology.links_between(a.cluster, b.cluster, fabric)
            if link is None:
                raise ConfigError(
                    f"no {fabric.value} link joins {a.cluster} and {b.cluster}", where="site.links"
                )
            index = self.topology.site.links.index(link)
            gbit_s = (self.rates or {}).get(index, link.gbit_s)
            # The link carries many connections, so no per-connection copying limits it.
            self.capacity[name] = gbit_s * GBIT * self.calibration.link(fabric.value).efficiency
        return name

    def _device(self, slot: DeviceSlot, direction: str) -> str:
        key = (slot.index, direction)
        if key in self._names:
            return self._names[key]
        name = self._names[key] = f"{slot.node.name}{DEVICE}{slot.local_index}/{direction}"
        self.capacity[name] = self._inside(slot)
        return name

    def _inside(self, slot: DeviceSlot) -> float:
        """Bytes per second of a device's link inside its node."""
        key = (id(slot.node.group),)
        if key not in self._caps:
            kind = resolve(slot.node.device)
            rate = kind.link_gbytes_s or kind.memory_gbytes_s
            if rate is None:
                raise ConfigError(
                    f"device kind {kind.name!r} has no link_gbytes_s",
                    where="device.link_gbytes_s",
                    next_step="give `link_gbytes_s` in the site's device entry",
                )
            self._caps[key] = self.calibration.link("intra-node").bytes_per_second(rate * 1e9)
        return self._caps[key]

    def _link(self, a: int, b: int, fabric: Fabric | None) -> LinkCalibration:
        same = self._slots[a].node.index == self._slots[b].node.index
        name = "intra-node" if same or fabric is None else fabric.value
        return self.calibration.link(name)

    def _group_link(self, ranks: tuple[int, ...], fabric: Fabric | None) -> LinkCalibration:
        far = max(ranks, key=lambda rank: self._slots[rank].node.index)
        near = min(ranks, key=lambda rank: self._slots[rank].node.index)
        return self._link(near, far, fabric)

    def _latency(self, a: int, b: int, fabric: Fabric | None) -> float:
        """Seconds of one hop from a to b, what the site says included."""
        key = (*_ends(self._slots[a].node, self._slots[b].node), fabric)
        if key not in self._latencies:
            self._latencies[key] = self._one_latency(a, b, fabric)
        return self._latencies[key]

    def _one_latency(self, a: int, b: int, fabric: Fabric | None) -> float:
        seconds = self._link(a, b, fabric).step_seconds
        near, far = self._slots[a].node, self._slots[b].node
        if self.rates or fabric is None or near.index == far.index:
            return seconds
        given = [n.latency_us for n in (near.nic(fabric), far.nic(fabric)) if n is not None]
        stated = [us * 1e-6 for us in given if us is not None]
        seconds = max([seconds, *stated]) if stated else seconds
        if near.cluster != far.cluster:
            link = self.topology.links_between(near.cluster, far.cluster, fabric)
            seconds += link.latency_us * 1e-6 if link is not None else 0.0
        return seconds


def _ends(a: Node, b: Node) -> tuple[object, ...]:
    """What two nodes are to each other; equal for all pairs of equal nodes."""
    return id(a.group), id(b.group), a.cluster, b.cluster, a.index == b.index
