"""The cost model read off once into small arrays: block times, memory coefficients, steps.

Nothing here knows a formula of the cost model. Memory is read as the bilinear
function that it is, ``A + B k + micro (C + flight (D + G k))`` for k transformer
blocks, from five values; a test compares it with the cost model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from holmes.cost.axes import Split, split_workload
from holmes.cost.context import ContextCost, context_cost, possible, shared_calibration
from holmes.cost.memory import pipeline_parts, split_by_tokens, stage_memory
from holmes.cost.model import CostModel
from holmes.cost.software import straggling
from holmes.cost.split import weight_seconds
from holmes.hardware.topology import DeviceSlot
from holmes.plan.layout import ContextAlgorithm, Layout, Recompute, Sharding
from holmes.schedule import zero_bubble
from holmes.workload.workload import Block, Workload

Floats = NDArray[np.float64]
T = TypeVar("T")
Shared = tuple[int, tuple[tuple[int, ...], ...]]
"""Replicas, and for each level of sharding the sizes of its groups."""


@dataclass(frozen=True)
class BlockTimes:
    """Seconds by (micro, recompute, sequence): of a transformer block and of both ends.

    ``attention`` is one forward of what selective recomputation repeats; weights are the
    part of a backward that no other stage waits for, and dividing what it takes longer in
    two parts.
    """

    forward: Floats
    backward: Floats
    first_forward: Floats
    first_backward: Floats
    last_forward: Floats
    last_backward: Floats
    attention: Floats
    weight: Floats
    first_weight: Floats
    last_weight: Floats
    dividing: Floats
    first_dividing: Floats
    last_dividing: Floats


@dataclass(frozen=True)
class Held:
    """Bytes of a stage: ``A + B k`` by sharding, ``C, D, G`` by (recompute, sequence), and
    like D and G what a micro-batch keeps that waits for its weights' gradients."""

    fixed: Floats
    per_block: Floats
    working: Floats
    kept: Floats
    kept_per_block: Floats
    waiting: Floats
    waiting_per_block: Floats


@dataclass
class Tables:
    """Everything that the scores of all layouts share, filled as it is asked for."""

    cost: CostModel
    recomputes: tuple[Recompute, ...]
    sequences: tuple[bool, ...]
    shardings: tuple[Sharding, ...]
    algorithms: tuple[ContextAlgorithm, ...] = ("ring",)
    _known: dict[tuple[object, ...], Any] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        """Blocks between the two ends of the chain."""
        return len(self.cost.workload.blocks) - 2

    @cached_property
    def kinds(self) -> list[DeviceSlot]:
        """One slot of each node entry of the site."""
        slots = self.cost.topology.devices
        return list({id(slot.node.group): slot for slot in slots}.values())

    @cached_property
    def middle_parameters(self) -> float:
        """Parameters of a block between the ends, the mean."""
        middle = self.cost.workload.blocks[1:-1]
        return sum(block.parameters for block in middle) / max(1, len(middle))

    def middle_sizes(self, ep: int) -> tuple[float, float]:
        """The same without the experts that several ranks share, and these on one of them."""
        if ep == 1:
            return self.middle_parameters, 0.0
        middle = self.cost.workload.blocks[1:-1]
        experts = sum(block.expert_parameters for block in middle) / max(1, len(middle))
        return self.middle_parameters - experts, experts / ep

    def workload(self, middles: int) -> Workload:
        """The ends of the chain, with this many of its mean middle block."""
        key = ("workload", middles)
        if key not in self._known:
            first, *_, last = self.cost.workload.blocks
            blocks = (first, *[self._middle_block] * middles, last)
            short = replace(self.cost.workload, blocks=blocks)
            self._known[key] = short
        found: Workload = self._known[key]
        return found

    @property
    def _middle_block(self) -> Block:
        """A middle block with the mean sizes of all."""
        if ("middle",) not in self._known:
            middle = self.cost.workload.blocks[1:-1] or self.cost.workload.blocks[-1:]
            kept = {
                key: sum(block.activation_bytes[key] for block in middle) / len(middle)
                for key in middle[0].activation_bytes
            }
            self._known["middle",] = replace(
                middle[0],
                parameters=round(sum(block.parameters for block in middle) / len(middle)),
                expert_parameters=round(sum(b.expert_parameters for b in middle) / len(middle)),
                activation_bytes=kept,
            )
        found: Block = self._known["middle",]
        return found

    def block_times(
        self, slots: Sequence[DeviceSlot], tp: int, split: Split, micros: tuple[int, ...]
    ) -> BlockTimes:
        """Block times on the slowest of these devices, by ranks that split the work so."""
        devices = [self._like(slot, tp) for slot in slots]
        key = ("times", tuple(id(slot.node.group) for slot in devices), tp, split, micros)
        if key not in self._known:
            each = [self._times(slot, tp, split, micros) for slot in devices]
            self._known[key] = BlockTimes(*np.max(np.stack(each), axis=0))
        found: BlockTimes = self._known[key]
        return found

    def _like(self, slot: DeviceSlot, tp: int) -> DeviceSlot:
        """The first slot of the site with an equal device; a tensor group that leaves its node
        also depends on its cards."""
        if tp > slot.node.device.count:
            return slot
        key = ("like", id(slot.node.group))
        if key not in self._known:
            device = slot.node.device
            self._known[key] = next(kind for kind in self.kinds if kind.node.device == device)
        found: DeviceSlot = self._known[key]
        return found

    def shared(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for each key."""
        if key not in self._known:
            self._known[key] = make()
        found: T = self._known[key]
        return found

    def contexts(self, tp: int, cp: int) -> tuple[ContextCost, ...]:
        """What a block exchanges over context ranks, by each algorithm that can."""
        workload = self.cost.workload
        return self.shared(
            ("contexts", tp, cp),
            lambda: tuple(
                context_cost(workload.blocks[1], algorithm, tp, cp)
                for algorithm in possible(workload, self.algorithms, tp, cp)
            ),
        )

    def held(self, tp: int, split: Split, shared: Shared, ends: tuple[bool, bool]) -> Held:
        """Memory coefficients of a stage that starts and/or ends the chain.

        Args:
            shared: replicas, and by sharding the sizes of the groups that share states.
        """
        key = ("held", tp, split, shared, ends)
        if key not in self._known:
            fixed, per_block = self._states(tp, split.expert, shared, ends)
            self._known[key] = Held(fixed, per_block, *self._activations(tp, split, ends))
        found: Held = self._known[key]
        return found

    def step(self, slots: Sequence[DeviceSlot]) -> tuple[float, float]:
        """(seconds, seconds per element) of an optimiser step on the slowest device."""
        key = ("step", tuple(id(slot.node.group) for slot in slots))
        if key not in self._known:
            few = max(self.cost.optimizer_seconds(0.0, slot) for slot in slots)
            many = max(self.cost.optimizer_seconds(1e9, slot) for slot in slots)
            self._known[key] = (few, (many - few) / 1e9)
        found: tuple[float, float] = self._known[key]
        return found

    def _times(self, slot: DeviceSlot, tp: int, split: Split, micros: tuple[int, ...]) -> Floats:
        shape = (13, len(micros), len(self.recomputes), len(self.sequences))
        slower = straggling(len(self.cost.topology.devices), self.cost.calibration)
        found = np.zeros(shape)
        for s, sequence in enumerate(self.sequences):
            if s and tp == 1:  # nothing to divide a sequence over
                found[..., s] = found[..., 0]
                continue
            model = self._model(split)
            read = partial(model.block_time, sequence_parallel=sequence and tp > 1)
            middle = range(1, len(model.workload.blocks) - 1)
            for m, micro in enumerate(micros):
                for r, recompute in enumerate(self.recomputes):
                    inner = [read(i, slot, micro, tp, recompute) for i in middle]
                    first = read(0, slot, micro, tp, recompute)
                    last = read(middle.stop, slot, micro, tp, recompute)
                    plain = [read(i, slot, micro, tp, "none") for i in middle]
                    weights = [
                        weight_seconds(model.workload.blocks[i], read(i, slot, micro, tp))
                        for i in range(middle.stop + 1)
                    ]
                    again = [read(i, slot, micro, tp, "selective") for i in middle]
                    kept = sum(a.backward - b.backward for a, b in zip(again, plain, strict=True))
                    count = max(1, len(middle))
                    found[:, m, r, s] = (
                        sum(time.forward for time in inner) / count,
                        sum(time.backward for time in inner) / count,
                        first.forward,
                        first.backward,
                        last.forward,
                        last.backward,
                        kept / count,
                        sum(weights[1:-1]) / count,
                        weights[0],
                        weights[-1],
                        sum(time.dividing for time in inner) / count,
                        first.dividing,
                        last.dividing,
                    )
        return found * slower

    def _model(self, split: Split) -> CostModel:
        """A cost model of the chain under a split, shortened where its middle blocks are alike."""
        key = ("model", split)
        if key not in self._known:
            base, blocks = self.cost, self.cost.workload.blocks[1:-1]
            alike = all(block.inner == blocks[0].inner for block in blocks)
            workload = self.workload(1) if alike else base.workload
            self._known[key] = replace(
                base,
                workload=split_workload(workload, split),
                calibration=shared_calibration(base.calibration, split.context),
            )
        found: CostModel = self._known[key]
        return found

    def _states(
        self, tp: int, ep: int, shared: Shared, ends: tuple[bool, bool]
    ) -> tuple[Floats, Floats]:
        """Bytes that no micro-batch adds to, by sharding: fixed, and per block."""
        key = ("states", tp, ep, shared, ends)
        if key in self._known:
            known: tuple[Floats, Floats] = self._known[key]
            return known
        replicas, sizes = shared
        layout = Layout(tp, 1 if all(ends) else 2, replicas, ep=ep)
        chains = [self.workload(middles) for middles in (1, 2)]
        values = np.array(
            [
                [
                    float(stage_memory(chain, _range(chain, ends), split, sharding, 0, 0, "none"))
                    for chain in chains
                ]
                for sharding, shard in zip(self.shardings, sizes, strict=True)
                for split in (replace(layout, shard=shard),)
            ]
        )
        found = (2 * values[:, 0] - values[:, 1], values[:, 1] - values[:, 0])
        self._known[key] = found
        return found

    def _activations(self, tp: int, whole: Split, ends: tuple[bool, bool]) -> tuple[Floats, ...]:
        """Bytes per sample, by (recompute, sequence): working; kept; kept per block; waiting;
        waiting per block."""
        key = ("activations", tp, whole, ends)
        if key not in self._known:
            found = np.zeros((5, len(self.recomputes), len(self.sequences)))
            for s, sequence in enumerate(self.sequences):
                if s and tp == 1:
                    found[..., s] = found[..., 0]
                    continue
                for r, recompute in enumerate(self.recomputes):
                    split = replace(whole, sequence=sequence)
                    one, two = (
                        self._probed(middles, tp, split, recompute, ends) for middles in (1, 2)
                    )
                    found[0, r, s] = two[0]
                    found[1::2, r, s] = [2 * a - b for a, b in zip(one[1:], two[1:], strict=True)]
                    found[2::2, r, s] = [b - a for a, b in zip(one[1:], two[1:], strict=True)]
            self._known[key] = tuple(found)
        known: tuple[Floats, ...] = self._known[key]
        return known

    def _probed(
        self, middles: int, tp: int, split: Split, recompute: Recompute, ends: tuple[bool, bool]
    ) -> tuple[float, float, float]:
        """Bytes per sample: without a micro-batch in flight, and what one adds that waits for
        its backward, or for its weights' gradients."""
        chain = split_by_tokens(self.workload(middles), split.context, split.sequence)
        ep = split.expert
        blocks, layout = _range(chain, ends), Layout(tp, 1, ep, ep=ep)
        empty, idle, flown = (
            float(stage_memory(chain, blocks, layout, "none", flight, micro, recompute))
            for flight, micro in ((0, 0), (0, 1), (1, 1))
        )
        split_up = pipeline_parts(chain, zero_bubble(1, 1), [blocks], layout, "none", 1, recompute)[
            0
        ]
        return idle - empty, flown - idle, float(split_up.total) - idle


def _range(chain: Workload, ends: tuple[bool, bool]) -> tuple[int, int]:
    """All middle blocks of a chain, with these ends of it."""
    return (0 if ends[0] else 1), len(chain.blocks) - (0 if ends[1] else 1)
