"""What a rank map alone decides: devices, exchanges and cuts of every pipeline stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from holmes.cost.model import CostModel
from holmes.cost.network import Network, Traffic
from holmes.hardware.site import Fabric
from holmes.hardware.topology import DeviceSlot
from holmes.plan.layout import Layout, TransportRule
from holmes.planner.alike import representatives
from holmes.planner.placement import RankMap, stage_slots
from holmes.planner.transport import choose_transport
from holmes.schedule.instruction import Op

PROBE_BYTES = 1e8
"""Size at which the rate of a collective is read off the cost model."""


@dataclass(frozen=True)
class Exchange:
    """Seconds of a collective or transfer: latency + bytes x per_byte."""

    latency: float
    per_byte: float

    def seconds(self, bytes_: float, operations: int) -> float:
        """Seconds of ``bytes_`` in all, in this many operations one after the other."""
        return operations * self.latency + bytes_ * self.per_byte


SHARED = ("_known", "_fabrics", "_read", "slots", "patterns", "kinds", "room", "network")
"""What every split of the same replicas reads and fills."""
OWN = frozenset({"layout", "rings"})
"""What changes when replicas become context ranks."""
NO_EXCHANGE = Exchange(0.0, 0.0)
Pattern = tuple[tuple[int, str, int], ...]
"""Of each node of a stage in rank order: its entry in the site, its cluster, its ranks."""


@dataclass(frozen=True)
class Ground:
    """One layout on one rank map, before anything is decided about the work.

    Stages with the same pattern of nodes cost the same and are priced once.
    Context ranks count as replicas here: they hold the same parameters.
    """

    cost: CostModel
    layout: Layout
    rank_map: RankMap
    transport: TransportRule

    @property
    def replicas(self) -> int:
        """Ranks of a stage that hold the same parameters."""
        return self.layout.dp * self.layout.cp

    @property
    def width(self) -> int:
        """Ranks of a stage."""
        return self.layout.tp * self.replicas

    @cached_property
    def slots(self) -> tuple[list[DeviceSlot], ...]:
        """The devices of each stage."""
        return tuple(
            stage_slots(self.cost.topology, self.layout, self.rank_map, stage)
            for stage in range(self.layout.pp)
        )

    @cached_property
    def network(self) -> Network:
        return self.cost.network(self.rank_map)

    @cached_property
    def patterns(self) -> tuple[Pattern, ...]:
        """Which nodes a stage spreads over; equal patterns cost the same."""
        return tuple(self._pattern(slots) for slots in self.slots)

    @cached_property
    def kinds(self) -> tuple[tuple[DeviceSlot, ...], ...]:
        """Per stage, one slot of each different node entry."""
        known: dict[Pattern, tuple[DeviceSlot, ...]] = {}
        for pattern, slots in zip(self.patterns, self.slots, strict=True):
            if pattern not in known:
                known[pattern] = tuple({id(s.node.group): s for s in slots}.values())
        return tuple(known[pattern] for pattern in self.patterns)

    @cached_property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Gradient exchange of each stage, all its tensor columns at the same time."""
        if self.replicas == 1:
            return (NO_EXCHANGE,) * self.layout.pp
        key: tuple[object, ...] = ("exchanges",)
        if key not in self._read:
            self._read[key] = self._per_pattern(self._exchange)
        return self._read[key]

    def shared(self, op: Op, groups: tuple[tuple[int, ...], ...]) -> tuple[Exchange, ...]:
        """A collective in groups of replicas of each stage, given by their places, all of them
        and all tensor columns at the same time."""
        if max(map(len, groups)) == 1:
            return (NO_EXCHANGE,) * self.layout.pp
        key = (op, groups)
        if key not in self._read:
            self._read[key] = self._per_pattern(lambda stage: self._in_groups(stage, op, groups))
        return self._read[key]

    @cached_property
    def rings(self) -> tuple[Exchange, ...]:
        """All-gather among the context ranks of each stage, all groups at the same time."""
        if self.layout.cp == 1:
            return (NO_EXCHANGE,) * self.layout.pp
        return self._per_pattern(self._ring)

    @property
    def tokens(self) -> tuple[Exchange, ...]:
        """All-to-all among the expert ranks of each stage, all groups at the same time; bytes are
        what each member has to hand out."""
        ep = self.layout.ep
        if ep == 1:
            return (NO_EXCHANGE,) * self.layout.pp
        key: tuple[object, ...] = ("tokens", ep)
        if key not in self._read:
            self._read[key] = self._per_pattern(lambda stage: self._all_to_all(stage, ep))
        return self._read[key]

    @cached_property
    def cuts(self) -> tuple[Exchange, ...]:
        """One-way transfer over each cut, all replicas at the same time.

        Bytes are what one tensor rank sends.
        """
        key: tuple[object, ...] = ("cuts",)
        if key not in self._read:
            stages = range(self.layout.pp - 1)
            self._read[key] = tuple(self.between(stage, stage + 1) for stage in stages)
        return self._read[key]

    @cached_property
    def wrap(self) -> Exchange:
        """From the last stage to the first, as looped schedules send."""
        return self.between(self.layout.pp - 1, 0) if self.layout.pp > 1 else NO_EXCHANGE

    @cached_property
    def room(self) -> tuple[float, ...]:
        """Bytes of the smallest device of each stage; infinite where nobody knows."""
        return tuple(min(device_bytes(self.cost, s) for s in slots) for slots in self.kinds)

    def with_layout(self, layout: Layout) -> Ground:
        """Another split of the same replicas into data and context ranks.

        Only the context rings differ; what is known of the rest is kept.
        """
        other = Ground(self.cost, layout, self.rank_map, self.transport)
        for name in SHARED:  # exist from now on, so that all splits read and fill the same
            getattr(self, name)
        kept = {key: value for key, value in self.__dict__.items() if key not in OWN}
        other.__dict__.update(kept)
        return other

    def between(self, a: int, b: int) -> Exchange:
        """Transfers from all ranks of one stage to those of another."""
        key = ("cut", *self._pair(a, b))
        if key not in self._known:
            whole = self._transfers(a, b, PROBE_BYTES)
            per_byte = (whole.seconds - whole.latency) / PROBE_BYTES
            self._known[key] = Exchange(whole.latency, per_byte)
        return self._known[key]

    def fabric(self, slots: Iterable[DeviceSlot]) -> Fabric | None:
        """The fabric of a group on these devices."""
        nodes = {slot.node.index: slot.node for slot in slots}
        key = tuple(nodes)
        if key not in self._fabrics:
            chosen = choose_transport(tuple(nodes.values()), self.cost.topology, self.transport)
            self._fabrics[key] = chosen.fabric
        return self._fabrics[key]

    def _exchange(self, stage: int) -> Exchange:
        tp, first = self.layout.tp, stage * self.width
        fabric = self.fabric(self.slots[stage])
        column = tuple(range(first, first + self.width, tp))
        return self._collectives(Op.REDUCE_SCATTER, [(column, fabric)], 1 / tp)

    def _in_groups(self, stage: int, op: Op, groups: tuple[tuple[int, ...], ...]) -> Exchange:
        tp, first = self.layout.tp, stage * self.width
        members = [[self.slots[stage][place * tp] for place in group] for group in groups]
        chosen = [
            (tuple(first + place * tp for place in groups[which]), self.fabric(members[which]))
            for which in representatives([[slot.node for slot in slots] for slots in members])
        ]
        return self._collectives(op, chosen, 1 / tp)

    def _ring(self, stage: int) -> Exchange:
        return self._collectives(Op.ALL_GATHER, self._neighbours(stage, self.layout.cp), 1.0)

    def _all_to_all(self, stage: int, ep: int) -> Exchange:
        groups = self._neighbours(stage, ep)
        return self._at_once(
            [self.network.all_to_all(ranks, PROBE_BYTES, fabric) for ranks, fabric in groups]
        )

    def _neighbours(self, stage: int, size: int) -> list[tuple[tuple[int, ...], Fabric | None]]:
        """The first tensor ranks of groups of so many neighbouring replicas, one of each kind."""
        tp, first = self.layout.tp, stage * self.width
        starts = range(0, self.width, tp * size)
        members = [self.slots[stage][start : start + tp * size : tp] for start in starts]
        groups = []
        for which in representatives([[slot.node for slot in slots] for slots in members]):
            start = first + starts[which]
            ranks = tuple(range(start, start + tp * size, tp))
            groups.append((ranks, self.fabric(members[which])))
        return groups

    def _collectives(
        self, op: Op, groups: Sequence[tuple[tuple[int, ...], Fabric | None]], share: float
    ) -> Exchange:
        """The same collective in several groups at once, each with its neighbours' of the
        other tensor ranks; bytes count ``share`` in each."""
        size = PROBE_BYTES * share
        return self._at_once(
            [self.network.collective(op, ranks, size, fabric) for ranks, fabric in groups]
        )

    def _at_once(self, traffics: Sequence[Traffic]) -> Exchange:
        """Operations of :data:`PROBE_BYTES` that start together, with their neighbours'."""
        together = self.network.together(traffics)
        whole = self.network.side_by_side(together, self.layout.tp)
        return Exchange(whole.latency, (whole.seconds - whole.latency) / PROBE_BYTES)

    def _transfers(self, a: int, b: int, bytes_: float) -> Traffic:
        traffics = []
        near, far = (self.slots[stage][:: self.layout.tp] for stage in (a, b))
        pairs = list(zip(near, far, strict=True))
        for which in representatives([(one.node, other.node) for one, other in pairs]):
            position = which * self.layout.tp
            source, target = a * self.width + position, b * self.width + position
            fabric = self.fabric(pairs[which])
            traffics.append(self.network.transfer(source, target, bytes_, fabric))
        return self.network.side_by_side(self.network.together(traffics), self.layout.tp)

    def _per_pattern(self, price: Callable[[int], Exchange]) -> tuple[Exchange, ...]:
        found: dict[Pattern, Exchange] = {}
        for stage, pattern in enumerate(self.patterns):
            if pattern not in found:
                found[pattern] = price(stage)
        return tuple(found[pattern] for pattern in self.patterns)

    def _pair(self, a: int, b: int) -> tuple[object, ...]:
        """What a cut costs depends on: both patterns, and how their ends share nodes."""
        tp = self.layout.tp
        first: dict[int, int] = {}
        places = [
            first.setdefault(slot.node.index, len(first))
            for stage in (a, b)
            for slot in self.slots[stage][::tp]
        ]
        return (self.patterns[a], self.patterns[b], tuple(places))

    def _pattern(self, slots: Sequence[DeviceSlot]) -> Pattern:
        tp = self.layout.tp  # tensor ranks are in one node
        nodes = {slot.node.index: slot.node for slot in slots[::tp]}
        counts = Counter(slot.node.index for slot in slots[::tp])
        return tuple(
            (id(node.group), node.cluster, tp * counts[index]) for index, node in nodes.items()
        )

    @cached_property
    def _known(self) -> dict[tuple[object, ...], Exchange]:
        return {}

    @cached_property
    def _read(self) -> dict[tuple[object, ...], tuple[Exchange, ...]]:
        """What is read off the network once for every split of the same replicas."""
        return {}

    @cached_property
    def _fabrics(self) -> dict[tuple[int, ...], Fabric | None]:
        return {}


def device_bytes(cost: CostModel, slot: DeviceSlot) -> float:
    """Memory of a device in bytes; infinite when the catalogue does not know it."""
    gigabytes = cost.device(slot).memory_gb
    return float("inf") if gigabytes is None else float(gigabytes) * 1e9
