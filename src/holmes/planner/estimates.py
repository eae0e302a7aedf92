"""What one shape on one rank map costs, in the few numbers that partition and warm-up need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from holmes.cost.calibration import BlockTime
from holmes.cost.context import context_cost, possible
from holmes.cost.memory import (
    MARGIN,
    pipeline_parts,
    split_by_tokens,
    stage_memory,
    with_kept_scores,
)
from holmes.cost.model import CostModel
from holmes.cost.software import straggling
from holmes.hardware.topology import DeviceSlot
from holmes.plan.layout import ContextAlgorithm, Layout
from holmes.planner.buckets import BUCKETS_PER_STAGE
from holmes.planner.candidates import Choice, Shape
from holmes.planner.ground import Ground, Pattern
from holmes.planner.levels import Level, levels
from holmes.planner.partition import Borders, StageCosts
from holmes.planner.placement import RankMap
from holmes.planner.schedules import (
    WHOLE_STAGE_WHOLE_BACKWARD,
    filled,
    in_flight,
    waiting_gradients,
)
from holmes.planner.settings import Settings
from holmes.planner.shard_sizes import shard_sizes
from holmes.planner.split_cost import SplitCost, split_cost
from holmes.planner.warmup import Extras
from holmes.schedule import zero_bubble
from holmes.schedule.generate import FORMS
from holmes.workload.workload import Workload


@dataclass(frozen=True)
class Estimates:
    """Costs of one (shape, rank map, choice)."""

    settings: Settings
    shape: Shape
    ground: Ground
    choice: Choice

    @cached_property
    def cost(self) -> CostModel:
        """Prices of the workload as one context rank sees it."""
        choice = self.choice
        return split_cost(self.ground, choice.sequence, self.algorithm, self.levels)

    @cached_property
    def algorithm(self) -> ContextAlgorithm:
        """How attention runs over context ranks: what adds least to a layer on its slowest ring."""
        layout, cost = self.shape.layout, self.ground.cost
        able = possible(cost.workload, self.settings.algorithms, layout.tp, layout.cp)
        if layout.cp == 1 or len(able) < 2:
            return able[0] if able else "ring"
        micro, recompute = self.shape.batch.micro, self.choice.recompute
        slot = self.slots[0][0]
        plain, again = (
            cost.block_time(1, slot, micro, layout.tp, mode).backward
            for mode in ("none", "selective")
        )
        slowest = max(self.ground.rings, key=lambda ring: ring.per_byte)

        def added(algorithm: ContextAlgorithm) -> float:
            moved = context_cost(cost.workload.blocks[1], algorithm, layout.tp, layout.cp)
            attention = (again - plain) / layout.cp
            times = moved.added(micro, lambda n: slowest.seconds(n, 1), attention, recompute)
            return times.forward + times.backward

        return min(able, key=added)

    @cached_property
    def listed_cost(self) -> CostModel:
        """The same where exchanges of every micro-batch are instructions of their own."""
        return split_cost(self.ground, self.choice.sequence, self.algorithm)

    @property
    def rank_map(self) -> RankMap:
        return self.ground.rank_map

    @property
    def slots(self) -> tuple[list[DeviceSlot], ...]:
        """The devices of each stage."""
        return self.ground.slots

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """What the replicas of each stage exchange."""
        settings = self.settings
        return levels(self.ground, self.choice.sharding, settings.shard_groups, settings.quantize)

    @property
    def room(self) -> tuple[float, ...]:
        """Bytes of the smallest device of each stage; infinite where nobody knows."""
        return self.ground.room

    @cached_property
    def cut_seconds(self) -> tuple[float, ...]:
        """One-way transfer of one micro-batch over each cut, all replicas at the same time."""
        return tuple(cut.seconds(self.boundary, 1) for cut in self.ground.cuts)

    @property
    def boundary(self) -> float:
        """Bytes that one rank sends over a cut for one micro-batch.

        All boundaries of a chain have the size of the embedding's output.
        """
        blocks = self.cost.workload.blocks
        parts = self.shape.layout.tp if self.settings.scatter_gather else 1
        return blocks[0].output_bytes * self.shape.batch.micro / parts

    def stage_costs(self, in_flight: Sequence[float]) -> StageCosts:
        """The view of the partition search, with this many micro-batches in flight per
        pipeline rank; a rank's virtual stages count as one."""
        rows = self.rows
        return StageCosts(
            forward=tuple(forward for forward, _ in rows),
            backward=tuple(backward for _, backward in rows),
            microbatches=self.shape.microbatches,
            exposed=self.exposed,
            fits=lambda stage, start, stop: (
                self.memory(start, stop, in_flight[stage]) + self._waiting_bytes(stage, start, stop)
                <= self.room[stage]
            ),
            fill=FORMS[self.choice.schedule].filled_share(self.choice.virtual_stages),
        )

    def looped_costs(self, in_flight: Sequence[float]) -> StageCosts:
        """The same with a column for each virtual stage: all of them as slow as the slowest."""
        one, pp, virtual = self.stage_costs(in_flight), self.shape.layout.pp, self.virtual
        return replace(
            one,
            forward=one.forward * virtual,
            backward=one.backward * virtual,
            microbatches=one.microbatches * virtual,
            exposed=lambda stage, start, stop: self.exposed(stage % pp, start, stop),
            fits=lambda stage, start, stop: one.fits(stage % pp, start, stop),
        )

    @property
    def virtual(self) -> int:
        """Virtual stages per pipeline rank."""
        return self.choice.virtual_stages

    def seconds(self, borders: Borders) -> tuple[float, ...]:
        """Forward and backward of one micro-batch on each virtual stage."""
        rows, pp = self.rows, self.shape.layout.pp
        return tuple(
            sum(sum(row[start:stop]) for row in rows[stage % pp])
            for stage, (start, stop) in enumerate(borders)
        )

    def pace(self, borders: Borders) -> float:
        """Seconds of a micro-batch, forward and backward, that the slowest rank of each
        loop through the ranks sets."""
        each, pp = self.seconds(borders), self.shape.layout.pp
        return sum(max(each[first : first + pp]) for first in range(0, len(each), pp))

    def in_flight(self, extras: Extras) -> tuple[float, ...]:
        """Micro-batches between forward and backward, per pipeline rank, as whole stages;
        without those that wait for their weights' gradients alone."""
        choice, shape = self.choice, self.shape
        stages, most = shape.layout.pp, shape.microbatches
        found = in_flight(choice.schedule, stages, most, choice.virtual_stages, extras)
        if not FORMS[choice.schedule].splits_backward:
            return found
        waiting = waiting_gradients(stages, most, extras)
        return tuple(max(0.0, f - w) for f, w in zip(found, waiting, strict=True))

    def _waiting_bytes(self, stage: int, start: int, stop: int) -> float:
        """Bytes that wait for the weights' gradients of a range of blocks."""
        if not FORMS[self.choice.schedule].splits_backward:
            return 0.0
        waiting = waiting_gradients(self.shape.layout.pp, self.shape.microbatches, ())
        return waiting[stage] * (self._waiting_sums[stop] - self._waiting_sums[start])

    @cached_property
    def _waiting_sums(self) -> tuple[float, ...]:
        """Bytes that one micro-batch keeps for the weights' gradients, up to each block."""
        workload, layout = self._held
        known: dict[tuple[object, ...], float] = {}
        sums = [0.0]
        for block in workload.blocks:
            key = (block.kind, block.parameters, block.output_bytes)
            if key not in known:
                chain, alone = replace(workload, blocks=(block,)), replace(layout, pp=1, shard=())
                made = zero_bubble(1, 1)
                mode, micro = self.choice.recompute, self.shape.batch.micro
                parts = pipeline_parts(chain, made, [(0, 1)], alone, "none", micro, mode)
                known[key] = parts[0].activations * (1 + MARGIN)
            sums.append(sums[-1] + known[key])
        return tuple(sums)

    def exposed(self, stage: int, start: int, stop: int) -> float:
        """Per-step seconds of a stage's gradient exchange and optimiser that nothing hides.

        With overlap, all buckets but the last reduce under the last backward, and
        all but the first are gathered under the first forward.
        """
        key: tuple[object, ...] = (self._first_alike[stage], start, stop)
        if self._equal_blocks:
            ends = (start == 0, stop == len(self.cost.workload.blocks))
            key = (self._first_alike[stage], ends, stop - start)
        if key not in self._exposed:
            self._exposed[key] = self._exposed_seconds(stage, start, stop)
        return self._exposed[key]

    def _exposed_seconds(self, stage: int, start: int, stop: int) -> float:
        workload = self.cost.workload
        elements, experts = self.parameters(start, stop)
        step = self.step_seconds(stage, elements, experts)
        if self.ground.replicas == 1:
            return step
        buckets = min(BUCKETS_PER_STAGE, stop - start)
        level = self.levels[stage]
        reduce = level.sums(elements, experts, workload.gradient_bytes, buckets)
        gather = level.refreshes(elements, experts, workload.parameter_bytes, buckets)
        if not self.settings.overlap:
            return step + reduce + gather
        forward, backward = self.rows[stage]
        hidden = (buckets - 1) / buckets
        exposed: float = step
        for seconds, row in ((gather, forward), (reduce, backward)):
            exposed += max(seconds - hidden * float(sum(row[start:stop])), seconds / buckets)
        return exposed

    def parameters(self, start: int, stop: int) -> tuple[float, float]:
        """Of a range of blocks: parameters, and those of experts where expert ranks divide
        them."""
        elements, experts = (sums[stop] - sums[start] for sums in self._parameters)
        return elements, experts

    def step_seconds(self, stage: int, elements: float, experts: float = 0.0) -> float:
        """Seconds of the optimiser of a stage that holds ``elements`` parameters, and those of
        experts besides."""
        layout = self.shape.layout
        if self.choice.sharding == "hybrid":
            owned = elements / (layout.tp * self.shard[0])
        elif self.choice.sharding != "none":
            owned = (elements + experts * layout.ep) / (layout.tp * self.ground.replicas)
        else:
            owned = (elements + experts) / layout.tp
        return max(self.cost.optimizer_seconds(owned, slot) for slot in self.ground.kinds[stage])

    @cached_property
    def shard(self) -> tuple[int, ...]:
        """Sizes of the groups of replicas that share weights, and gradients, where the level
        of sharding has any."""
        return shard_sizes(self.ground, self.choice.sharding, self.settings.shard_groups)

    def memory(self, start: int, stop: int, in_flight: float) -> int:
        """Bytes of one rank of a stage with these blocks."""
        key = (start == 0, stop == len(self.cost.workload.blocks), stop - start, in_flight)
        if self._uniform and key in self._memory:
            return self._memory[key]
        workload, layout = self._held
        found = stage_memory(
            workload,
            (start, stop),
            layout,
            self.choice.sharding,
            in_flight,
            self.shape.batch.micro,
            self.choice.recompute,
        )
        self._memory[key] = found
        return found

    def rank_memory(self, borders: Borders, extras: Extras) -> tuple[int, ...]:
        """Bytes of a rank of each pipeline stage, with all its virtual stages.

        Args:
            borders: blocks of every virtual stage.
        """
        layout, choice, micro = self.shape.layout, self.choice, self.shape.batch.micro
        counts = (choice.schedule, layout.pp, self.shape.microbatches, choice.virtual_stages)
        if choice.schedule in WHOLE_STAGE_WHOLE_BACKWARD:
            flight = self.in_flight(extras)
            return tuple(
                self.memory(*blocks, flight[stage]) for stage, blocks in enumerate(borders)
            )
        workload, held = self._held
        made = filled(*counts, extras)
        parts = pipeline_parts(
            workload, made, borders, held, choice.sharding, micro, choice.recompute
        )
        return tuple(one.total for one in parts)

    @cached_property
    def least_seconds(self) -> float:
        """No partition of this shape is faster: its compute, perfectly divided."""
        rows = self.rows
        blocks = range(len(self.cost.workload.blocks))
        whole = sum(min(forward[i] + backward[i] for forward, backward in rows) for i in blocks)
        return self.shape.microbatches * whole / self.shape.layout.pp

    @cached_property
    def _held(self) -> tuple[Workload, Layout]:
        """What memory sees: context ranks are replicas; a divided sequence divides all."""
        layout, whole = self.shape.layout, self.ground.cost.workload
        replicas = self.ground.replicas
        held = Layout(layout.tp, layout.pp, replicas, ep=layout.ep, shard=self.shard)
        shared = split_by_tokens(whole, layout.cp, self.choice.sequence)
        if layout.cp > 1 and self.algorithm == "rsa":
            shared = with_kept_scores(shared, layout.cp)
        return shared, held

    @cached_property
    def _memory(self) -> dict[tuple[bool, bool, int, float], int]:
        return {}

    @cached_property
    def _uniform(self) -> bool:
        """Whether all blocks between the first and the last are equal but for their names."""
        middle = self.cost.workload.blocks[1:-1]
        return (
            len(
                {
                    (b.parameters, b.output_bytes, b.working_bytes, *b.activation_bytes.values())
                    for b in middle
                }
            )
            < 2
        )

    @cached_property
    def _parameters(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Parameters up to each block, and those of experts where expert ranks divide them."""
        blocks, apart = self.cost.workload.blocks, self.shape.layout.ep > 1
        experts = [block.expert_parameters if apart else 0 for block in blocks]
        others = [b.parameters - count for b, count in zip(blocks, experts, strict=True)]
        return tuple(accumulate(others, initial=0)), tuple(accumulate(experts, initial=0))

    @cached_property
    def _exposed(self) -> dict[tuple[object, ...], float]:
        return {}

    @cached_property
    def _first_alike(self) -> tuple[int, ...]:
        """Per stage, the first whose nodes have the same pattern: it costs the same."""
        patterns = self.ground.patterns
        first = {pattern: stage for stage, pattern in reversed(list(enumerate(patterns)))}
        return tuple(first[pattern] for pattern in patterns)

    @cached_property
    def _equal_blocks(self) -> bool:
        """Whether blocks between the first and the last cost and hold the same, on any stage."""
        rows = {id(row): row for pair in self.rows for row in pair}
        middle = self.cost.workload.blocks[1:-1]
        return len({block.parameters for block in middle}) < 2 and all(
            len(set(row[1:-1])) < 2 for row in rows.values()
        )

    @cached_property
    def rows(self) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]:
        """Per stage, forward and backward of every block on its slowest device."""
        known: dict[Pattern, tuple[tuple[float, ...], tuple[float, ...]]] = {}
        for rank, pattern in enumerate(self.ground.patterns):
            if pattern not in known:
                known[pattern] = self._row(rank)
        return tuple(known[pattern] for pattern in self.ground.patterns)

    @cached_property
    def weights(self) -> tuple[tuple[float, ...], ...]:
        """Per stage, the weights' gradients of every block on its slowest device, seconds."""
        known: dict[Pattern, tuple[float, ...]] = {}
        for rank, pattern in enumerate(self.ground.patterns):
            if pattern not in known:
                known[pattern] = self._weight_row(rank)
        return tuple(known[pattern] for pattern in self.ground.patterns)

    @property
    def _straggling(self) -> float:
        """What many devices wait for one another multiplies computation by."""
        return straggling(self.shape.layout.devices, self.cost.calibration)

    def _weight_row(self, rank: int) -> tuple[float, ...]:
        micro, tp = self.shape.batch.micro, self.shape.layout.tp
        slots = self.ground.kinds[rank]
        known: dict[tuple[object, ...], float] = {}
        found = []
        for index, block in enumerate(self.cost.workload.blocks):
            key = (block.kind, id(block.inner), block.parameters)
            if key not in known:
                blocks = (index, index + 1)
                known[key] = max(
                    self.cost.weight_seconds(blocks, slot, micro, tp) for slot in slots
                )
            found.append(known[key] * self._straggling)
        return tuple(found)

    def _row(self, rank: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        micro, tp = self.shape.batch.micro, self.shape.layout.tp
        slots = self.ground.kinds[rank]
        cost = self.cost.at(rank) if isinstance(self.cost, SplitCost) else self.cost
        slower, divided = self._straggling, FORMS[self.choice.schedule].splits_backward
        known: dict[tuple[object, ...], list[BlockTime]] = {}
        times = []
        for index, block in enumerate(self.cost.workload.blocks):
            key = (block.kind, id(block.inner), block.parameters)
            if key not in known:
                recompute = self.choice.recompute
                each = [cost.block_time(index, slot, micro, tp, recompute) for slot in slots]
                known[key] = [time.in_parts() for time in each] if divided else each
            times.append(known[key])
        return (
            tuple(slower * max(time.forward for time in each) for each in times),
            tuple(slower * max(time.backward for time in each) for each in times),
        )
