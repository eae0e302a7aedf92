"""The cost model read off once into small arrays: block times, memory coefficients, steps.

Nothing here knows a formula of the cost model. Memory is read as the bilinear
function that it is, ``A + B k + micro (C + flight (D + G k))`` for k transformer
blocks, from five values; a test compares it with the cost model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holmes.cost.axes import Split, split_workload, tensor_share
from holmes.cost.memory import stage_memory
from holmes.cost.model import CostModel
from holmes.hardware.topology import DeviceSlot
from holmes.plan.layout import Layout, Recompute, Sharding
from holmes.workload.workload import Workload

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BlockTimes:
    """Seconds by (micro, recompute, sequence): of a transformer block and of both ends.

    ``attention`` is one forward of what selective recomputation repeats.
    """

    forward: Floats
    backward: Floats
    first_forward: Floats
    first_backward: Floats
    last_forward: Floats
    last_backward: Floats
    attention: Floats


@dataclass(frozen=True)
class Held:
    """Bytes of a stage: ``A + B k`` by sharding, ``C, D, G`` by (recompute, sequence)."""

    fixed: Floats
    per_block: Floats
    working: Floats
    kept: Floats
    kept_per_block: Floats


@dataclass
class Tables:
    """Everything that the scores of all layouts share, filled as it is asked for."""

    cost: CostModel
    recomputes: tuple[Recompute, ...]
    sequences: tuple[bool, ...]
    shardings: tuple[Sharding, ...]
    _known: dict[tuple[object, ...], Any] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        """Blocks between the two ends of the chain."""
        return len(self.cost.workload.blocks) - 2

    @property
    def middle_parameters(self) -> float:
        """Parameters of a block between the ends, the mean."""
        middle = self.cost.workload.blocks[1:-1]
        return sum(block.parameters for block in middle) / max(1, len(middle))

    def workload(self, split: Split) -> Workload:
        """The workload under a split."""
        key = ("workload", split)
        if key not in self._known:
            self._known[key] = split_workload(self.cost.workload, split)
        found: Workload = self._known[key]
        return found

    def block_times(
        self, slots: Sequence[DeviceSlot], tp: int, cp: int, micros: tuple[int, ...]
    ) -> BlockTimes:
        """Block times on the slowest of these devices."""
        key = ("times", tuple(id(slot.node.group) for slot in slots), tp, cp, micros)
        if key not in self._known:
            each = [self._times(slot, tp, cp, micros) for slot in slots]
            self._known[key] = BlockTimes(*np.max(np.stack(each), axis=0))
        found: BlockTimes = self._known[key]
        return found

    def held(self, tp: int, cp: int, replicas: int, ends: tuple[bool, bool]) -> Held:
        """Memory coefficients of a stage that starts and/or ends the chain."""
        key = ("held", tp, cp, replicas, ends)
        if key not in self._known:
            fixed, per_block = self._states(tp, cp, replicas, ends)
            self._known[key] = Held(fixed, per_block, *self._activations(tp, cp, ends))
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

    def _times(self, slot: DeviceSlot, tp: int, cp: int, micros: tuple[int, ...]) -> Floats:
        shape = (7, len(micros), len(self.recomputes), len(self.sequences))
        found = np.zeros(shape)
        for s, sequence in enumerate(self.sequences):
            key = ("model", cp, sequence)
            if key not in self._known:
                workload = self.workload(Split(cp, sequence))
                base = self.cost
                self._known[key] = CostModel(base.topology, workload, base.calibration, base.rates)
            model: CostModel = self._known[key]
            middle = self._middle(model.workload)
            for m, micro in enumerate(micros):
                for r, recompute in enumerate(self.recomputes):
                    inner = [model.block_time(i, slot, micro, tp, recompute) for i in middle]
                    first = model.block_time(0, slot, micro, tp, recompute)
                    last = model.block_time(self.layers + 1, slot, micro, tp, recompute)
                    plain = [model.block_time(i, slot, micro, tp, "none") for i in middle]
                    again = [model.block_time(i, slot, micro, tp, "selective") for i in middle]
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
                    )
        return found

    def _middle(self, workload: Workload) -> range:
        """One index where all middle blocks are alike, else all of them."""
        if "alike" not in self._known:
            blocks = workload.blocks[1:-1]
            self._known["alike",] = all(
                block.inner == blocks[0].inner
                and block.kind == blocks[0].kind
                and block.backward_over_forward == blocks[0].backward_over_forward
                for block in blocks
            )
        alike: bool = self._known["alike",]
        return range(1, 2) if alike and self.layers else range(1, self.layers + 1)

    def _states(
        self, tp: int, cp: int, replicas: int, ends: tuple[bool, bool]
    ) -> tuple[Floats, Floats]:
        """Bytes that no micro-batch adds to, by sharding: fixed, and per block."""
        few, many = self._ranges(ends)
        workload = self.workload(Split(cp, False))
        layout = Layout(tp, 1, replicas)
        values = np.array(
            [
                [
                    float(stage_memory(workload, blocks, layout, sharding, 0, 0, "none"))
                    for blocks in (few, many)
                ]
                for sharding in self.shardings
            ]
        )
        return self._line(values[:, 0], values[:, 1], few, many, ends)

    def _activations(
        self, tp: int, cp: int, ends: tuple[bool, bool]
    ) -> tuple[Floats, Floats, Floats]:
        """Bytes per sample, by (recompute, sequence): working; kept; kept per block."""
        key = ("activations", tp, cp, ends)
        if key not in self._known:
            shape = (len(self.recomputes), len(self.sequences))
            working, kept, each = np.zeros(shape), np.zeros(shape), np.zeros(shape)
            few, many = self._ranges(ends)
            for s, sequence in enumerate(self.sequences):
                workload, width = self.workload(Split(cp, sequence)), tp
                if sequence:
                    workload, width = tensor_share(workload, tp), 1
                for r, recompute in enumerate(self.recomputes):

                    def bytes_of(
                        blocks: tuple[int, int],
                        flight: int,
                        micro: int,
                        workload: Workload = workload,
                        width: int = width,
                        recompute: Recompute = recompute,
                    ) -> float:
                        layout = Layout(width, 1, 1)
                        return float(
                            stage_memory(workload, blocks, layout, "none", flight, micro, recompute)
                        )

                    states = [bytes_of(blocks, 0, 0) for blocks in (few, many)]
                    idle = bytes_of(many, 0, 1) - states[1]
                    one = [bytes_of(blocks, 1, 1) for blocks in (few, many)]
                    flown = [one[0] - states[0], one[1] - states[1]]
                    line = self._line(
                        np.array(flown[0] - (bytes_of(few, 0, 1) - states[0])),
                        np.array(flown[1] - idle),
                        few,
                        many,
                        ends,
                    )
                    working[r, s], kept[r, s], each[r, s] = idle, line[0], line[1]
            self._known[key] = (working, kept, each)
        found: tuple[Floats, Floats, Floats] = self._known[key]
        return found

    def _ranges(self, ends: tuple[bool, bool]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Two ranges of blocks, one transformer block apart, with these ends of the chain."""
        last = self.layers + 2
        if all(ends):
            return (0, last), (0, last)
        few, many = 1, min(2, max(1, self.layers))
        if ends[0]:
            return (0, 1 + few), (0, 1 + many)
        if ends[1]:
            return (last - 1 - few, last), (last - 1 - many, last)
        return (1, 1 + few), (1, 1 + many)

    def _line(
        self,
        low: Floats,
        high: Floats,
        few: tuple[int, int],
        many: tuple[int, int],
        ends: tuple[bool, bool],
    ) -> tuple[Floats, Floats]:
        """Intercept and slope per transformer block through two values."""
        if all(ends):
            return high, np.zeros_like(high)
        if few == many:
            return np.zeros_like(low), low
        return 2 * low - high, high - low
