"""What one shape on one rank map costs, in the few numbers that partition and warm-up need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from holmes.cost.memory import stage_memory
from holmes.cost.model import CostModel
from holmes.cost.network import Network
from holmes.hardware.site import Fabric
from holmes.hardware.topology import DeviceSlot
from holmes.plan.layout import Recompute, TransportRule
from holmes.planner.buckets import BUCKETS_PER_STAGE
from holmes.planner.candidates import Shape
from holmes.planner.partition import StageCosts
from holmes.planner.placement import RankMap, stage_slots
from holmes.planner.settings import Settings
from holmes.planner.transport import choose_transport
from holmes.schedule.instruction import Op

PROBE_BYTES = 1e8
"""Size at which the rate of a collective is read off the cost model."""


@dataclass(frozen=True)
class Exchange:
    """Seconds of a reduce-scatter or all-gather of a stage: latency + bytes x per_byte."""

    latency: float
    per_byte: float

    def seconds(self, bytes_: float, operations: int) -> float:
        """Seconds of ``bytes_`` in all, in this many operations one after the other."""
        return operations * self.latency + bytes_ * self.per_byte


@dataclass(frozen=True)
class Estimates:
    """Costs of one (shape, rank map, recomputation)."""

    cost: CostModel
    settings: Settings
    shape: Shape
    rank_map: RankMap
    recompute: Recompute

    @cached_property
    def slots(self) -> tuple[list[DeviceSlot], ...]:
        """The devices of each stage."""
        layout = self.shape.layout
        return tuple(
            stage_slots(self.cost.topology, layout, self.rank_map, stage)
            for stage in range(layout.pp)
        )

    @cached_property
    def network(self) -> Network:
        return self.cost.network(self.rank_map)

    @cached_property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Gradient exchange of each stage, all its tensor columns at the same time."""
        layout = self.shape.layout
        if layout.dp == 1:
            return (Exchange(0.0, 0.0),) * layout.pp
        found = []
        for stage in range(layout.pp):
            fabric = self._fabric(self.slots[stage])
            first = stage * layout.tp * layout.dp
            columns = [
                tuple(range(first + tensor, first + layout.tp * layout.dp, layout.tp))
                for tensor in range(layout.tp)
            ]
            share = PROBE_BYTES / layout.tp
            traffics = [
                self.network.collective(Op.REDUCE_SCATTER, ranks, share, fabric)
                for ranks in columns
            ]
            whole = self.network.together(traffics)
            found.append(Exchange(whole.latency, (whole.seconds - whole.latency) / PROBE_BYTES))
        return tuple(found)

    @cached_property
    def cut_seconds(self) -> tuple[float, ...]:
        """One-way transfer of one micro-batch over each cut, all replicas at the same time."""
        layout = self.shape.layout
        size = layout.tp * layout.dp
        # All boundaries of a chain have the size of the embedding's output.
        boundary = self.cost.workload.blocks[0].output_bytes * self.shape.batch.micro / layout.tp
        found = []
        for cut in range(layout.pp - 1):
            traffics = []
            for position in range(size):
                a, b = cut * size + position, (cut + 1) * size + position
                ends = [self.slots[cut][position], self.slots[cut + 1][position]]
                traffics.append(self.network.transfer(a, b, boundary, self._fabric(ends)))
            found.append(self.network.together(traffics).seconds)
        return tuple(found)

    def stage_costs(self, in_flight: Sequence[int], virtual_stages: int = 1) -> StageCosts:
        """The view of the partition search, with this many micro-batches in flight per
        (virtual) stage. Several stages on a rank share its time, so the slowest counts
        for each of its micro-batches and stages."""
        rows, pp = self._rows, self.shape.layout.pp
        return StageCosts(
            forward=tuple(forward for forward, _ in rows) * virtual_stages,
            backward=tuple(backward for _, backward in rows) * virtual_stages,
            microbatches=self.shape.microbatches * virtual_stages,
            exposed=lambda stage, start, stop: self.exposed(stage % pp, start, stop),
            fits=lambda stage, start, stop: self.fits(stage % pp, start, stop, in_flight[stage]),
        )

    def exposed(self, stage: int, start: int, stop: int) -> float:
        """Per-step seconds of a stage's gradient exchange and optimiser that nothing hides.

        With overlap, all buckets but the last reduce under the last backward, and
        all but the first are gathered under the first forward.
        """
        key = (stage, start, stop)
        if key not in self._exposed:
            self._exposed[key] = self._exposed_seconds(stage, start, stop)
        return self._exposed[key]

    def _exposed_seconds(self, stage: int, start: int, stop: int) -> float:
        workload = self.cost.workload
        layout = self.shape.layout
        elements = self._parameters[stop] - self._parameters[start]
        owned = elements / layout.tp
        if self.settings.sharding != "none":
            owned /= layout.dp
        step = max(self.cost.optimizer_seconds(owned, slot) for slot in self._kinds[stage])
        if layout.dp == 1:
            return step
        buckets = min(BUCKETS_PER_STAGE, stop - start)
        exchange = self.exchanges[stage]
        reduce = exchange.seconds(elements * workload.gradient_bytes, buckets)
        gather = exchange.seconds(elements * workload.parameter_bytes, buckets)
        if not self.settings.overlap:
            return step + reduce + gather
        forward, backward = self._rows[stage]
        hidden = (buckets - 1) / buckets
        exposed: float = step
        for seconds, row in ((gather, forward), (reduce, backward)):
            exposed += max(seconds - hidden * float(sum(row[start:stop])), seconds / buckets)
        return exposed

    def fits(self, stage: int, start: int, stop: int, in_flight: int) -> bool:
        """Whether the smallest device of a stage holds a range of blocks."""
        return self.memory(start, stop, in_flight) <= self.room[stage]

    def memory(self, start: int, stop: int, in_flight: int) -> int:
        """Bytes of one rank of a stage with these blocks."""
        key = (start == 0, stop == len(self.cost.workload.blocks), stop - start, in_flight)
        if self._uniform and key in self._memory:
            return self._memory[key]
        found = stage_memory(
            self.cost.workload,
            (start, stop),
            self.shape.layout,
            self.settings.sharding,
            in_flight,
            self.shape.batch.micro,
            self.recompute,
        )
        self._memory[key] = found
        return found

    @cached_property
    def room(self) -> tuple[float, ...]:
        """Bytes of the smallest device of each stage; infinite where nobody knows."""
        return tuple(
            min(device_bytes(self.cost, slot) for slot in self._kinds[stage])
            for stage in range(self.shape.layout.pp)
        )

    @cached_property
    def least_seconds(self) -> float:
        """No partition of this shape is faster: its compute, perfectly divided."""
        rows = self._rows
        blocks = range(len(self.cost.workload.blocks))
        whole = sum(min(forward[i] + backward[i] for forward, backward in rows) for i in blocks)
        return self.shape.microbatches * whole / self.shape.layout.pp

    @cached_property
    def _memory(self) -> dict[tuple[bool, bool, int, int], int]:
        return {}

    @cached_property
    def _uniform(self) -> bool:
        """Whether all blocks between the first and the last are equal but for their names."""
        middle = self.cost.workload.blocks[1:-1]
        return (
            len({(b.parameters, b.output_bytes, *b.activation_bytes.values()) for b in middle}) < 2
        )

    @cached_property
    def _parameters(self) -> tuple[int, ...]:
        sums = [0]
        for block in self.cost.workload.blocks:
            sums.append(sums[-1] + block.parameters)
        return tuple(sums)

    @cached_property
    def _fabrics(self) -> dict[tuple[int, ...], Fabric | None]:
        return {}

    @cached_property
    def _exposed(self) -> dict[tuple[int, int, int], float]:
        return {}

    @cached_property
    def _kinds(self) -> tuple[tuple[DeviceSlot, ...], ...]:
        """Per stage, one slot of each different node entry."""
        return tuple(
            tuple({id(slot.node.group): slot for slot in slots}.values()) for slots in self.slots
        )

    @cached_property
    def _rows(self) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]:
        """Per stage, forward and backward of every block on its slowest device."""
        known: dict[tuple[int, ...], tuple[tuple[float, ...], tuple[float, ...]]] = {}
        found = []
        for slots in self._kinds:
            key = tuple(id(slot.node.group) for slot in slots)
            if key not in known:
                known[key] = self._row(slots)
            found.append(known[key])
        return tuple(found)

    def _row(self, slots: Sequence[DeviceSlot]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        micro, tp = self.shape.batch.micro, self.shape.layout.tp
        times = [
            [self.cost.block_time(index, slot, micro, tp, self.recompute) for slot in slots]
            for index in range(len(self.cost.workload.blocks))
        ]
        return (
            tuple(max(time.forward for time in each) for each in times),
            tuple(max(time.backward for time in each) for each in times),
        )

    def _fabric(self, slots: Iterable[DeviceSlot]) -> Fabric | None:
        nodes = {slot.node.index: slot.node for slot in slots}
        key = tuple(nodes)
        if key not in self._fabrics:
            rule: TransportRule = self.settings.transport
            chosen = choose_transport(tuple(nodes.values()), self.cost.topology, rule)
            self._fabrics[key] = chosen.fabric
        return self._fabrics[key]


def device_bytes(cost: CostModel, slot: DeviceSlot) -> float:
    """Memory of a device in bytes; infinite when the catalogue does not know it."""
    gigabytes = cost.device(slot).memory_gb
    return float("inf") if gigabytes is None else float(gigabytes) * 1e9
