"""Seconds of the collectives inside attention over context ranks, and which algorithm is cheapest.

A ring computes on one chunk while the next arrives (Liu et al. 2023), so that only what
attention does not hide is added; the exchange of tokens for heads (Jacobs et al. 2023) stands
before and after attention, and all of it is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from holmes.cost.axes import BACKWARD_ROUNDS, exposed_ring
from holmes.cost.calibration import BlockTime, Calibration
from holmes.plan.layout import ContextAlgorithm, Recompute
from holmes.workload.workload import Block, Collective, Workload

Seconds = Callable[[Any], Any]
"""Of an exchange among the context ranks, by its payload in bytes at full size: a number,
or an array of many."""


@dataclass(frozen=True)
class ContextCost:
    """The collectives of one block's attention over N ranks.

    Attributes:
        parts: at full size, for one sample.
        ranks: N.
    """

    algorithm: ContextAlgorithm
    ranks: int
    parts: tuple[Collective, ...]

    def added(
        self, micro: int, seconds: Seconds, attention: float, recompute: Recompute
    ) -> BlockTime:
        """What forward and backward of ``micro`` samples take longer than without them.

        Args:
            attention: seconds of the core's forward on one rank.
        """
        return BlockTime(*self.added_seconds(micro, seconds, attention, recompute))

    def added_seconds(
        self, micro: Any, seconds: Seconds, attention: Any, recompute: Recompute
    ) -> tuple[Any, Any]:
        """(forward, backward) of :meth:`added`, of numbers or of arrays of one shape."""
        if not self.parts:
            return 0.0 * attention, 0.0 * attention
        forward = [part for part in self.parts if part.direction == "forward"]
        if self.algorithm != "ulysses":
            moved = sum(self._payload(part) for part in forward) * micro
            exposed = exposed_ring(seconds(moved), attention)
            again = 0.0 if recompute == "none" else exposed
            return exposed, BACKWARD_ROUNDS * exposed + again
        backward = [part for part in self.parts if part.direction == "backward"]
        repeated = [part for part in forward if part.runs(recompute) > 1]
        return (
            sum(seconds(self._payload(part) * micro) for part in forward),
            sum(seconds(self._payload(part) * micro) for part in (*backward, *repeated)),
        )

    def _payload(self, part: Collective) -> float:
        """Bytes at full size of a collective of which a rank sends (N-1)/N."""
        return part.sent_bytes(self.ranks, cp=self.ranks) * self.ranks / (self.ranks - 1)


def context_cost(block: Block, algorithm: ContextAlgorithm, tp: int, ranks: int) -> ContextCost:
    """Of one of ``tp`` tensor ranks.

    Args:
        block: of the whole sample.
    """
    return ContextCost(algorithm, ranks, block.context_program(algorithm, tp, ranks))


def possible(
    workload: Workload, algorithms: Iterable[ContextAlgorithm], tp: int, cp: int
) -> tuple[ContextAlgorithm, ...]:
    """Those algorithms by which ``cp`` ranks can share a sample."""
    return tuple(a for a in algorithms if workload.context_obstacle(a, tp, cp) is None)


def shared_calibration(calibration: Calibration, ranks: int) -> Calibration:
    """Measured blocks as one of N context ranks computes them: it has 1/N of the work."""

    def part(kinds: Mapping[str, BlockTime]) -> Mapping[str, BlockTime]:
        return {kind: times.scaled(1 / ranks) for kind, times in kinds.items()}

    return replace(
        calibration,
        blocks={device: part(kinds) for device, kinds in calibration.blocks.items()},
        split_blocks={
            tp: {device: part(kinds) for device, kinds in devices.items()}
            for tp, devices in calibration.split_blocks.items()
        },
    )
