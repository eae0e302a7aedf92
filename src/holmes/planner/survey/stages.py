"""What all schedules of one layout on one rank map share, as arrays.

Rows are the choices of (micro-batch, recomputation, sequence, sharding), in that
order, the last fastest; columns are pipeline stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from holmes.cost.axes import Split
from holmes.cost.experts import exchange_seconds
from holmes.plan.layout import Layout
from holmes.planner.buckets import BUCKETS_PER_STAGE
from holmes.planner.ground import Ground
from holmes.planner.levels import Level, levels
from holmes.planner.settings import Settings
from holmes.planner.shard_sizes import shard_sizes
from holmes.planner.survey.partition import blocks_within, least_bottleneck
from holmes.planner.survey.tables import BlockTimes, Floats, Tables
from holmes.planner.survey.work import Work, bound

LEAST_SECONDS = 1e-12
UNEVEN = 1.5
"""Ratio of exchange rates from which a partition weighs them."""


@dataclass(frozen=True)
class Stages:
    """One layout on one rank map with all its choices but the schedule."""

    tables: Tables
    ground: Ground
    micros: tuple[int, ...]
    global_batch: int
    settings: Settings

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Choices of micro-batch, recomputation, sequence and sharding."""
        tables = self.tables
        return (
            len(self.micros),
            len(tables.recomputes),
            len(tables.sequences),
            len(tables.shardings),
        )

    @property
    def count(self) -> int:
        """Pipeline stages."""
        return self.ground.layout.pp

    @cached_property
    def split(self) -> Split:
        """How context and expert ranks split a sample's work."""
        return Split(self.ground.layout.cp, expert=self.ground.layout.ep)

    @cached_property
    def micro(self) -> Floats:
        """Samples of a micro-batch, [row]."""
        return self._spread(np.array(self.micros, dtype=float)[:, None, None, None])

    @cached_property
    def microbatches(self) -> Floats:
        """Micro-batches of a step and replica, [row]."""
        return np.floor(self.global_batch / (self.micro * self.ground.layout.dp) + 1e-9)

    @cached_property
    def room(self) -> Floats:
        """Bytes of the smallest device, [stage]."""
        return np.array(self.ground.room)

    @cached_property
    def floor(self) -> Floats:
        """Least transformer blocks of each stage: the ends of the chain fill a stage too."""
        found = np.ones(self.count)
        found[[0, -1]] = 0.0
        return found if self.count > 1 else np.full(1, float(self.tables.layers))

    def memory(
        self,
        rows: NDArray[np.int64],
        flight: Floats,
        waiting: Floats | None = None,
        ends: Floats | None = None,
    ) -> tuple[Floats, Floats]:
        """Bytes of a stage without blocks and per block, [row, stage].

        Args:
            flight: micro-batches between forward and backward, [row, stage].
            ends: the same of the embedding and the head, where it differs.
            waiting: those that wait for their weights' gradients alone, [row, stage].
        """
        micro = self.micro[rows, None]
        states, per_block, working, kept, each = (part[rows] for part in self._held[:5])
        base = states + micro * (working + (flight if ends is None else ends) * kept)
        slope = per_block + micro * flight * each
        if waiting is not None:
            kept, each = (part[rows] for part in self._held[5:])
            base, slope = base + micro * waiting * kept, slope + micro * waiting * each
        return base, np.maximum(slope, 1e-9)

    @cached_property
    def fewest(self) -> Floats:
        """As few micro-batches in flight as any schedule has, those of 1F1B, [row, stage]."""
        return np.minimum(self.microbatches[:, None], self.count - np.arange(self.count))

    @cached_property
    def lightest(self) -> tuple[Floats, Floats]:
        """The memory with the fewest micro-batches in flight."""
        return self.tables.shared(
            ("lightest", *self._alike),
            lambda: self.memory(np.arange(len(self.micro)), self.fewest),
        )

    @cached_property
    def cuts(self) -> Floats:
        """One transfer of one micro-batch over each cut, seconds, [row, cut]."""
        latency = np.array([cut.latency for cut in self.ground.cuts])
        per_byte = np.array([cut.per_byte for cut in self.ground.cuts])
        found: Floats = latency + self._sent[:, None] * per_byte
        return found

    @cached_property
    def wrap(self) -> Floats:
        """One transfer of one micro-batch from the last stage to the first, seconds, [row]."""
        return self.ground.wrap.latency + self._sent * self.ground.wrap.per_byte

    @cached_property
    def _sent(self) -> Floats:
        """Bytes that one rank sends over a cut, [row]."""
        layout = self.ground.layout
        boundary = self.tables.cost.workload.blocks[0].output_bytes
        return self.micro * boundary / (layout.cp * layout.tp)

    @property
    def least_seconds(self) -> Floats:
        """Seconds of a step with the middle blocks evenly divided, some stage holding a whole
        number of them that is no less than the mean, and nothing else, [row]."""
        forward, backward, *_ = self._times
        each = np.maximum(forward + backward, LEAST_SECONDS)
        even = float(self.tables.layers) / (1.0 / each).sum(axis=1)
        whole = -(-self.tables.layers // self.count) * each.min(axis=1)
        found: Floats = self.microbatches * np.maximum(even, whole)
        return found

    @cached_property
    def free(self) -> Work:
        """The best partition where memory does not matter."""
        return self.work(None, np.full(self.count, float(self.tables.layers)))

    def work(self, rows: NDArray[np.int64] | None, most: Floats) -> Work:
        """The best partition with at most so many blocks a stage, of some rows or all.

        Balances compute; where the exchanges of the stages differ much, also compute
        and exchange together, and keeps the better of the two.
        """
        forward, backward, *_ = self._of(rows)
        each = np.maximum(forward + backward, LEAST_SECONDS)
        if self.count == 1 or not self.uneven:
            return self._balanced(rows, most, each)
        microbatches = self.microbatches if rows is None else self.microbatches[rows]
        workload = self.tables.cost.workload
        sent = workload.gradient_bytes + workload.parameter_bytes
        exchange = np.array([e.per_byte for e in self.ground.exchanges]) * sent
        elements, _ = self.tables.middle_sizes(self.ground.layout.ep)
        both = each + exchange * elements / microbatches[:, None]
        every = np.arange(len(each)) if rows is None else rows
        twice = np.broadcast_to(most, each.shape)
        tried = self._balanced(
            np.concatenate([every, every]),
            np.concatenate([twice, twice]),
            np.concatenate([each, both]),
        )
        found = tried.rows(np.arange(len(each)))
        other = tried.rows(np.arange(len(each), 2 * len(each)))
        faster = bound(other, microbatches) < bound(found, microbatches)
        return found.put(faster, other.rows(np.flatnonzero(faster)))

    def _balanced(self, rows: NDArray[np.int64] | None, most: Floats, each: Floats) -> Work:
        """The partition whose largest stage is least, with these costs of a block."""
        forward, backward, ends_forward, ends_backward = self._of(rows)
        layers, floor = float(self.tables.layers), self.floor
        fixed = ends_forward + ends_backward
        blocks = whole = np.full_like(each, layers)
        if self.count > 1:
            largest = least_bottleneck(each, fixed, floor, most, self.tables.layers)
            whole = blocks_within(largest, each, fixed, floor, most)
            blocks = whole * (layers / np.maximum(whole.sum(axis=1, keepdims=True), 1.0))
        forwards, backwards = ends_forward + blocks * forward, ends_backward + blocks * backward
        # The slowest stage holds whole blocks; the others share what is left over.
        slowest = np.max(fixed + whole * (forward + backward), axis=1)
        elements, experts = self._elements(blocks), None
        few, per_element = self._steps
        owned = self._owned[slice(None) if rows is None else rows]
        steps = few + elements / owned[:, :1] * per_element
        if self.ground.layout.ep > 1:
            experts = blocks * self.tables.middle_sizes(self.ground.layout.ep)[1]
            steps = steps + experts / owned[:, 1:] * per_element
        exposed = steps
        if self.ground.replicas > 1:
            every = np.arange(len(self.micro)) if rows is None else rows
            exposed = steps + self._exchanged((forwards, backwards), elements, experts, every)
        return Work(slowest, blocks, forwards, backwards, exposed, steps)

    def _of(self, rows: NDArray[np.int64] | None) -> tuple[Floats, Floats, Floats, Floats]:
        if rows is None:
            return self._times
        forward, backward, ends_forward, ends_backward = self._times
        return forward[rows], backward[rows], ends_forward[rows], ends_backward[rows]

    @cached_property
    def uneven(self) -> bool:
        """Whether one stage's exchange is much slower than another's."""
        rates = [exchange.per_byte for exchange in self.ground.exchanges]
        return bool(max(rates) > UNEVEN * min(rates))

    def _spread(self, values: Floats) -> Floats:
        """Values that broadcast over the choices, one per row."""
        return np.broadcast_to(values, self.shape).reshape(-1).copy()

    @cached_property
    def _held(self) -> tuple[Floats, ...]:
        return self.tables.shared(("held rows", *self._alike), self._held_rows)

    @property
    def _alike(self) -> tuple[object, ...]:
        """What memory depends on: equal for most rank maps of a layout."""
        return (self.ground.layout, self.micros, self._sizes)

    @cached_property
    def _sizes(self) -> tuple[tuple[int, ...], ...]:
        """Of the groups that share states, by sharding."""
        wish = self.settings.shard_groups
        return tuple(shard_sizes(self.ground, z, wish) for z in self.tables.shardings)

    @cached_property
    def _levels(self) -> list[tuple[Level, ...]]:
        """What replicas exchange, [sharding][stage]."""
        ground, settings = self.ground, self.settings
        return [
            levels(ground, z, settings.shard_groups, settings.quantize)
            for z in self.tables.shardings
        ]

    def _held_rows(self) -> tuple[Floats, ...]:
        layout = self.ground.layout
        ends = [(s == 0, s == self.count - 1) for s in range(self.count)]
        held = {
            e: self.tables.held(layout.tp, self.split, (self.ground.replicas, self._sizes), e)
            for e in dict.fromkeys(ends)
        }
        columns = [list(held).index(e) for e in ends]

        def rows(name: str, sharded: bool) -> Floats:
            values = np.stack([getattr(one, name) for one in held.values()], axis=-1)
            values = values[None, None, None] if sharded else values[None, :, :, None]
            values = np.broadcast_to(values, (*self.shape, len(held)))
            return values.reshape(-1, len(held))[:, columns]

        return (
            rows("fixed", True),
            rows("per_block", True),
            rows("working", False),
            rows("kept", False),
            rows("kept_per_block", False),
            rows("waiting", False),
            rows("waiting_per_block", False),
        )

    @cached_property
    def _patterns(self) -> tuple[list[int], list[int]]:
        """(a stage of each different pattern, for each stage which of them it is)."""
        patterns = self.ground.patterns
        different = list(dict.fromkeys(patterns))
        index = {pattern: i for i, pattern in enumerate(different)}
        return [patterns.index(p) for p in different], [index[p] for p in patterns]

    @cached_property
    def _times(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Forward and backward of a block, and of the ends of the chain, [row, stage]."""
        layout = self.ground.layout
        firsts, index = self._patterns
        each = [
            self.tables.block_times(self.ground.kinds[s], layout.tp, self.split, self.micros)
            for s in firsts
        ]
        both = [self._with_exchanges(t, s) for t, s in zip(each, firsts, strict=True)]
        forward, backward = (np.stack(way, -1) for way in zip(*both, strict=True))
        ends_forward = np.zeros((len(self.micro), self.count))
        ends_backward = ends_forward.copy()
        first, last = each[index[0]], each[index[-1]]
        blocks = self.tables.cost.workload.blocks
        ends = (
            (0, first.first_forward, first.first_backward, blocks[0]),
            (-1, last.last_forward, last.last_backward, blocks[-1]),
        )
        for stage, ahead, back, block in ends:
            longer = self._with_gathers(ahead, back, stage, block.parameters)
            ends_forward[:, stage] += longer[0]
            ends_backward[:, stage] += longer[1]
        return forward[:, index], backward[:, index], ends_forward, ends_backward

    def weights(self, rows: NDArray[np.int64], blocks: Floats) -> Floats:
        """Weights' gradients of a micro-batch on a stage with so many blocks, [row, stage]."""
        each, ends = self._weights
        found: Floats = ends[rows] + blocks * each[rows]
        return found

    def dividing(self, rows: NDArray[np.int64], blocks: Floats) -> Floats:
        """What a backward in two parts takes longer on a stage with so many blocks."""
        each, ends = self._dividing
        found: Floats = ends[rows] + blocks * each[rows]
        return found

    @cached_property
    def _weights(self) -> tuple[Floats, Floats]:
        """Weights' gradients of a block, and of the ends of the chain, [row, stage]."""
        return self._along(lambda times: (times.first_weight, times.weight, times.last_weight))

    @cached_property
    def _dividing(self) -> tuple[Floats, Floats]:
        return self._along(
            lambda times: (times.first_dividing, times.dividing, times.last_dividing)
        )

    def _along(self, parts: Callable[[BlockTimes], tuple[Floats, ...]]) -> tuple[Floats, Floats]:
        """Some seconds of a block, and of the ends of the chain, [row, stage].

        Args:
            parts: of the first, of a middle, and of the last block.
        """
        layout = self.ground.layout
        firsts, index = self._patterns
        each = [
            self.tables.block_times(self.ground.kinds[s], layout.tp, self.split, self.micros)
            for s in firsts
        ]
        middle = np.stack([self._spread(parts(times)[1][..., None]) for times in each], -1)
        ends = np.zeros((len(self.micro), self.count))
        ends[:, 0] += self._spread(parts(each[index[0]])[0][..., None])
        ends[:, -1] += self._spread(parts(each[index[-1]])[2][..., None])
        return middle[:, index], ends

    def _with_exchanges(self, times: BlockTimes, stage: int) -> tuple[Floats, Floats]:
        """Forward and backward of a block with what context ranks and replicas exchange
        for every micro-batch, [row] each."""
        ground = self.ground
        exchanged = tuple(each[stage] for each in self._levels)
        network = ground.rings[stage], ground.tokens[stage], exchanged
        key = ("exchanges", id(times), network, ground.layout.tp, self.split)
        return self.tables.shared(key, lambda: self._added(times, stage))

    def _added(self, times: BlockTimes, stage: int) -> tuple[Floats, Floats]:
        forward, backward = self._in_context(times, stage)
        sizes = self.tables.middle_sizes(self.ground.layout.ep)
        forward, backward = times.forward + forward, times.backward + backward
        if self.ground.layout.ep > 1:
            moved = self._among_experts(stage)
            forward, backward = forward + moved[0], backward + moved[1]
        return self._with_gathers(forward, backward, stage, *sizes)

    def _among_experts(self, stage: int) -> tuple[Floats, Floats]:
        """What a block's tokens take to their experts and back, [m, r, s] each."""
        way, block = self.ground.tokens[stage], self.tables.cost.workload.blocks[1]
        micro = np.array(self.micros, dtype=float)
        each = [
            exchange_seconds(block, micro, self.split.context, lambda n: way.seconds(n, 1), mode)
            for mode in self.tables.recomputes
        ]
        forward, backward = (np.stack(side, -1)[..., None] for side in zip(*each, strict=True))
        return forward, backward

    def _in_context(self, times: BlockTimes, stage: int) -> tuple[Floats, Floats]:
        """What context ranks add to forward and backward of a block by the algorithm that adds
        least, [m, r, s] each."""
        tables, layout = self.tables, self.ground.layout
        none = np.zeros_like(times.forward)
        if layout.cp == 1:
            return none, none
        ring = self.ground.rings[stage]
        micro = np.array(self.micros, dtype=float)[:, None]
        found = []
        for moved in tables.contexts(layout.tp, layout.cp):
            added = np.zeros((2, *none.shape))
            for r, recompute in enumerate(tables.recomputes):
                added[0][:, r], added[1][:, r] = moved.added_seconds(
                    micro, lambda n: ring.seconds(n, 1), times.attention[:, r], recompute
                )
            found.append(added)
        if not found:
            return none, none
        best = np.argmin([added.sum(axis=0) for added in found], axis=0)
        forward, backward = (np.choose(best, [added[way] for added in found]) for way in (0, 1))
        return forward, backward

    def _with_gathers(
        self, forward: Floats, backward: Floats, stage: int, elements: float, experts: float = 0.0
    ) -> tuple[Floats, Floats]:
        """Times of a block of so many parameters, [m, r, s], no shorter than what every
        micro-batch gathers and reduces of it, [row]."""
        workload = self.tables.cost.workload
        floors = np.array(
            [each[stage].floors(elements, workload, experts) for each in self._levels]
        )
        return (
            np.maximum(forward[..., None], floors[:, 0]).reshape(-1),
            np.maximum(backward[..., None], floors[:, 1]).reshape(-1),
        )

    def _elements(self, blocks: Floats) -> Floats:
        workload = self.tables.cost.workload
        found = blocks * self.tables.middle_sizes(self.ground.layout.ep)[0]
        found[:, 0] += workload.blocks[0].parameters
        found[:, -1] += workload.blocks[-1].parameters
        if self.count == 1:
            found -= workload.tied_parameters
        return found

    @cached_property
    def _owned(self) -> Floats:
        """Ranks over which a stage's optimiser states are divided, and those of experts that
        several ranks share, [row, 2]."""
        layout = Layout(dp=self.ground.replicas)
        ways = [
            1 if z == "none" else replace(layout, shard=sizes).shards(z).states
            for z, sizes in zip(self.tables.shardings, self._sizes, strict=True)
        ]
        divided = self._spread(np.array(ways, dtype=float)[None, None, None])
        experts = np.maximum(divided / self.ground.layout.ep, 1.0)
        return np.stack([divided, experts], -1) * self.ground.layout.tp

    @cached_property
    def _steps(self) -> tuple[Floats, Floats]:
        firsts, index = self._patterns
        pairs = np.array([self.tables.step(self.ground.kinds[s]) for s in firsts])[index]
        return pairs[:, 0], pairs[:, 1]

    @cached_property
    def _once(self) -> tuple[Floats, ...]:
        return _of_a_step(self._levels)

    @cached_property
    def _once_of_experts(self) -> tuple[Floats, ...]:
        return _of_a_step([[one.experts or one for one in row] for row in self._levels])

    def _exchanged(
        self,
        ways: tuple[Floats, Floats],
        elements: Floats,
        experts: Floats | None,
        rows: NDArray[np.int64],
    ) -> Floats:
        """Gradient reduction and parameter gather that nothing hides, [row, stage].

        Args:
            ways: forward and backward of a micro-batch.
            experts: parameters besides that expert ranks share.
        """
        forward, backward = ways
        workload = self.tables.cost.workload
        level = rows % len(self.tables.shardings)
        starts, summed, again, refreshed = (values[level] for values in self._once)
        reduce = starts * BUCKETS_PER_STAGE + elements * workload.gradient_bytes * summed
        gather = again * BUCKETS_PER_STAGE + elements * workload.parameter_bytes * refreshed
        if experts is not None:
            starts, summed, again, refreshed = (values[level] for values in self._once_of_experts)
            reduce += starts * BUCKETS_PER_STAGE + experts * workload.gradient_bytes * summed
            gather += again * BUCKETS_PER_STAGE + experts * workload.parameter_bytes * refreshed
        if not self.settings.overlap:
            found: Floats = reduce + gather
            return found
        hidden = (BUCKETS_PER_STAGE - 1) / BUCKETS_PER_STAGE
        found = np.maximum(reduce - hidden * backward, reduce / BUCKETS_PER_STAGE)
        found += np.maximum(gather - hidden * forward, gather / BUCKETS_PER_STAGE)
        return found


def _of_a_step(levels: Sequence[Sequence[Level]]) -> tuple[Floats, ...]:
    """Latency and seconds per byte of a step's gradients, and of its new weights,
    [sharding, stage] each."""
    each = [
        [(a.latency, a.per_byte, b.latency, b.per_byte) for a, b in stages]
        for stages in ([(level.summed, level.refreshed) for level in row] for row in levels)
    ]
    return tuple(np.moveaxis(np.array(each), -1, 0))
