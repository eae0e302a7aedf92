"""How many blocks each pipeline stage holds: exact, proportional and even.

``exact`` minimises, over all ways to cut the chain, the step time of a
pipeline that never waits for its cuts::

    F sum_s t_s  +  (m - F) max_s t_s  +  max_s (e_s - F sum_{k<s} b_k, 0)

with F the part of 1F1B's fill that the schedule keeps (1, or 1/v when it
interleaves v virtual stages), t_s = f_s + b_s the forward and backward seconds
of a micro-batch on stage s, and e_s the per-step seconds of stage s that nothing
hides (its gradient exchange on its own NIC). Stage s ends its last backward
F sum_{k<s} b_k before stage 0 does, which is the time it has for e_s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

from holmes.errors import ConfigError
from holmes.workload.workload import Block

Borders = tuple[tuple[int, int], ...]
EQUAL = 1 + 1e-12
"""Sums of the same blocks in another order differ by less."""
PROPORTIONAL_ALPHA = 1.05
"""Holmes (arXiv 2312.03549): stages but the last take alpha times their share."""


@dataclass(frozen=True)
class StageCosts:
    """What the partition search knows of each (stage, block).

    Attributes:
        forward, backward: seconds of one micro-batch, ``[stage][block]``.
        microbatches: m, per step and replica.
        fill: F, the part of the fill that the schedule keeps.
        exposed: (stage, start, stop) -> per-step seconds that nothing hides.
        fits: (stage, start, stop) -> whether the stage's memory holds the range;
            a range that does not fit stays too large when it grows.
    """

    forward: tuple[tuple[float, ...], ...]
    backward: tuple[tuple[float, ...], ...]
    microbatches: int
    exposed: Callable[[int, int, int], float]
    fits: Callable[[int, int, int], bool]
    fill: float = 1.0

    @property
    def stages(self) -> int:
        return len(self.forward)

    @property
    def blocks(self) -> int:
        return len(self.forward[0])

    @cached_property
    def _forward_sums(self) -> tuple[tuple[float, ...], ...]:
        return tuple((0.0, *accumulate(row)) for row in self.forward)

    @cached_property
    def _backward_sums(self) -> tuple[tuple[float, ...], ...]:
        return tuple((0.0, *accumulate(row)) for row in self.backward)

    def forward_seconds(self, stage: int, start: int, stop: int) -> float:
        """Forward of one micro-batch over a range of blocks."""
        return self._forward_sums[stage][stop] - self._forward_sums[stage][start]

    def backward_seconds(self, stage: int, start: int, stop: int) -> float:
        """Backward of one micro-batch over a range of blocks."""
        return self._backward_sums[stage][stop] - self._backward_sums[stage][start]

    def seconds(self, stage: int, start: int, stop: int) -> float:
        """Forward and backward of one micro-batch over a range of blocks."""
        return self.forward_seconds(stage, start, stop) + self.backward_seconds(stage, start, stop)


def objective(costs: StageCosts, borders: Borders) -> float:
    """The seconds that ``exact`` minimises; infinite when a stage does not fit."""
    total = slowest = tail = drained = 0.0
    for stage, (start, stop) in enumerate(borders):
        if not costs.fits(stage, start, stop):
            return math.inf
        seconds = costs.seconds(stage, start, stop)
        total += seconds
        slowest = max(slowest, seconds)
        tail = max(tail, costs.exposed(stage, start, stop) - costs.fill * drained)
        drained += costs.backward_seconds(stage, start, stop)
    return costs.fill * total + (costs.microbatches - costs.fill) * slowest + tail


def even(blocks: Sequence[Block], stages: int) -> Borders:
    """Equal transformer-block counts, as Megatron-LM cuts; the embedding goes with
    the first stage and the head with the last.

    Raises:
        ConfigError: with more stages than transformer blocks.
    """
    layers = _layers(blocks, stages)
    cuts = [layers[0] + layers[1] * stage // stages for stage in range(1, stages)]
    return _borders(cuts, len(blocks))


def proportional(blocks: Sequence[Block], speeds: Sequence[float]) -> Borders:
    """The Holmes paper's rule: floor(alpha S_i / sum S x N) transformer blocks for
    each stage but the last, at least one; the last takes the rest.

    Args:
        speeds: S_i, the speed of each stage in any unit.

    Raises:
        ConfigError: with more stages than transformer blocks.
    """
    stages = len(speeds)
    first, count = _layers(blocks, stages)
    cuts: list[int] = []
    taken = 0
    for stage, speed in enumerate(speeds[:-1]):
        share = math.floor(PROPORTIONAL_ALPHA * speed / sum(speeds) * count)
        taken += max(1, min(share, count - taken - (stages - stage - 1)))
        cuts.append(first + taken)
    return _borders(cuts, len(blocks))


def exact(costs: StageCosts, limit: float = math.inf) -> Borders | None:
    """The borders with the smallest :func:`objective`, or None when nothing fits
    that is at most ``limit`` seconds.

    A dynamic programme over (stage, first block not yet placed). A state keeps
    the front of partial cuts that no other beats in all of: forward sum, total
    sum, slowest stage, tail. The remaining cost grows with each of them, so the
    best complete cut is on the front; a bound on the slowest stage from any
    known cut keeps the ranges short.

    Raises:
        ConfigError: with more stages than blocks.
    """
    stages, blocks = costs.stages, costs.blocks
    check_stage_count(blocks, stages)
    best = min(limit, objective(costs, _balanced(costs)))
    rest = _least_from(costs)
    least = rest[0]
    if not _coverable(costs, least, best):
        return None
    fill, slack = costs.fill, best * (1 + 1e-9)
    fronts: dict[int, list[_Partial]] = {0: [_Partial()]}
    for stage in range(stages):
        following: dict[int, list[_Partial]] = {}
        last_stop = blocks - (stages - stage - 1)
        for start, front in fronts.items():
            stops = range(start + 1, last_stop + 1) if stage < stages - 1 else (blocks,)
            for stop in stops:
                seconds = costs.seconds(stage, start, stop)
                if (costs.microbatches - fill) * seconds + fill * least > slack:
                    break
                if not costs.fits(stage, start, stop):
                    break
                forward = costs.forward_seconds(stage, start, stop)
                added = _Added(stop, forward, seconds, costs.exposed(stage, start, stop))
                most = slack - fill * rest[stop]
                _grow(front, added, costs, most, following.setdefault(stop, []))
        fronts = following
    complete = fronts.get(blocks, [])
    if not complete:
        return None
    chosen = min(complete, key=lambda partial: partial.bound(costs))
    return _borders(list(chosen.stops[:-1]), blocks)


def check_stage_count(blocks: int, stages: int) -> None:
    """Refuse empty stages.

    Raises:
        ConfigError: with more stages than blocks.
    """
    if stages > blocks:
        raise ConfigError(
            f"{stages} pipeline stages for a model of {blocks} blocks",
            where="parallel.pipeline",
            why="every stage holds at least one block (the embedding and the head are blocks too)",
            next_step=f"use at most {blocks} stages, or a deeper model",
        )


class _Added(NamedTuple):
    """One more stage, up to block ``stop``: its costs in seconds."""

    stop: int
    forward: float
    seconds: float
    exposed: float


class _Partial(NamedTuple):
    """A cut of the first stages."""

    stops: tuple[int, ...] = ()
    forward: float = 0.0
    total: float = 0.0
    slowest: float = 0.0
    tail: float = 0.0

    def bound(self, costs: StageCosts) -> float:
        """The objective so far, which adding stages can only raise."""
        fill = costs.fill
        return fill * self.total + (costs.microbatches - fill) * self.slowest + self.tail


def _grow(
    front: list[_Partial], added: _Added, costs: StageCosts, most: float, into: list[_Partial]
) -> None:
    """Put each cut with one more stage into a front, unless its bound is above ``most`` or a
    member is no larger, but by rounding, in any of four: then it can only lose."""
    fill, later = costs.fill, costs.microbatches - costs.fill
    stop, ahead, seconds, exposed = added
    for stops, old_forward, old_total, old_slowest, old_tail in front:
        tail = max(old_tail, exposed - fill * (old_total - old_forward))
        forward, total = old_forward + ahead, old_total + seconds
        slowest = max(old_slowest, seconds)
        if fill * total + later * slowest + tail > most:
            continue
        bounds = slowest * EQUAL, total * EQUAL, forward * EQUAL, tail * EQUAL
        for _, f, t, s, e in into:
            if s <= bounds[0] and t <= bounds[1] and f <= bounds[2] and e <= bounds[3]:
                break
        else:
            into[:] = [
                member
                for member in into
                if slowest > member[3] * EQUAL
                or total > member[2] * EQUAL
                or forward > member[1] * EQUAL
                or tail > member[4] * EQUAL
            ]
            into.append(_Partial((*stops, stop), forward, total, slowest, tail))


def _balanced(costs: StageCosts) -> Borders:
    """A fair cut to start the bound from: each stage takes its share of the mean time."""
    stages, blocks = costs.stages, costs.blocks
    whole = [costs.seconds(stage, 0, blocks) for stage in range(stages)]
    speeds = [1.0 / seconds if seconds > 0 else 1.0 for seconds in whole]
    cuts: list[int] = []
    start = 0
    for stage in range(stages - 1):
        share = whole[stage] * speeds[stage] / sum(speeds)
        stop = start + 1
        while stop < blocks - (stages - stage - 1) and (
            costs.seconds(stage, start, stop) + costs.seconds(stage, start, stop + 1) < 2 * share
        ):
            stop += 1
        cuts.append(stop)
        start = stop
    return _borders(cuts, blocks)


def _coverable(costs: StageCosts, least: float, best: float) -> bool:
    """Whether stages that each take all they may reach the end of the chain.

    Taking the most from the front is the best there is, since a range that is
    too large or too slow stays so when it grows.
    """
    start = 0
    for stage in range(costs.stages):
        stop = start
        last = costs.blocks - (costs.stages - stage - 1)
        while (
            stop < last
            and (costs.microbatches - costs.fill) * costs.seconds(stage, start, stop + 1)
            + costs.fill * least
            <= best * (1 + 1e-9)
            and costs.fits(stage, start, stop + 1)
        ):
            stop += 1
        if stop == start:
            return False
        start = stop
    return start == costs.blocks


def _least_from(costs: StageCosts) -> list[float]:
    """Lower bounds of the sum of stage times from each block on: each on its fastest stage."""
    pairs = zip(costs.forward, costs.backward, strict=True)
    different = {(id(forward), id(backward)): (forward, backward) for forward, backward in pairs}
    least = [
        min(forward[block] + backward[block] for forward, backward in different.values())
        for block in range(costs.blocks)
    ]
    return [0.0, *accumulate(reversed(least))][::-1]


def _layers(blocks: Sequence[Block], stages: int) -> tuple[int, int]:
    """(blocks before the first transformer block, number of transformer blocks)."""
    kinds = [block.kind for block in blocks]
    count = kinds.count("transformer")
    if stages > max(count, 1):
        raise ConfigError(
            f"{stages} pipeline stages for {count} transformer blocks",
            where="parallel.pipeline",
            why="every stage holds at least one block; equal and proportional "
            "partitions give each a transformer block",
            next_step=f"use at most {count} stages, or a deeper model",
        )
    return (kinds.index("transformer") if count else 0), count


def _borders(cuts: list[int], blocks: int) -> Borders:
    edges = [0, *cuts, blocks]
    return tuple(pairwise(edges))
