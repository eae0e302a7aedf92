"""How many extra warm-up forwards hide a slow cut between two stages.

Plain 1F1B sends a forward down a cut and needs its gradient back before it can
go on: with two stages every micro-batch waits for one transfer there and one
back. Each extra forward in flight gives the cut one more micro-batch time t to
do both; a cut whose one-way transfer takes d is hidden by the smallest e with
e t >= 2 d. A cut slower than the stages (d > t) limits the pipeline itself and
more warm-up does not help it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

WORTH = 0.01
"""A change of the warm-up counts as an improvement from this fraction of the step on."""
MOST = 4

Extras = tuple[int, ...]


def warmup_of_cuts(cut_seconds: Sequence[float], stage_seconds: float, microbatches: int) -> Extras:
    """The rule above, per cut.

    Args:
        cut_seconds: one-way transfer time d of one micro-batch, per cut.
        stage_seconds: forward and backward of one micro-batch on the slowest stage, t.
        microbatches: m; with one there is nothing to keep in flight.

    Returns:
        Extra forwards per cut; 0 where the whole stall, m x 2 d, is under 1 % of the step.
    """
    most = max(0, min(MOST, microbatches - 1))
    extras: list[int] = []
    for seconds in cut_seconds:
        if stage_seconds <= 0 or 2 * seconds < WORTH * stage_seconds:
            extras.append(0)
        else:
            extras.append(min(most, math.ceil(2 * seconds / stage_seconds)))
    return tuple(extras)


def within_memory(extras: Extras, fits: Callable[[Extras], bool]) -> Extras:
    """The extras lowered, largest first, until the activations in flight fit; none of them
    where not even that does. The fewest steps are found by halving: less never needs more."""
    low, high = 0, sum(extras)
    while low < high:
        middle = (low + high) // 2
        if fits(_lowered(extras, middle)):
            high = middle
        else:
            low = middle + 1
    return _lowered(extras, low)


def _lowered(extras: Extras, steps: int) -> Extras:
    """Extras after so many steps, each of which takes one off the first of the largest."""
    found = list(extras)
    for _ in range(steps):
        found[found.index(max(found))] -= 1
    return tuple(found)


def settle(
    start: Extras, seconds: Callable[[Extras], float], fits: Callable[[Extras], bool], most: int
) -> Extras:
    """The smallest warm-up near ``start`` that the simulator cannot improve by 1 %.

    Cuts with equal extras move together, one step up or down at a time, as long
    as going up saves more than 1 % or going down costs less than that.

    Args:
        seconds: simulated step time of a warm-up.
        most: upper bound per cut (micro-batches in flight beyond it cannot exist).
    """
    current = start
    for level in sorted(set(start), reverse=True):
        while True:
            up = _moved(current, level, 1)
            if level + 1 > min(most, MOST) or not fits(up):
                break
            if seconds(up) >= seconds(current) * (1 - WORTH):
                break
            current, level = up, level + 1
        while level > 0:
            down = _moved(current, level, -1)
            if seconds(down) > seconds(current) * (1 + WORTH):
                break
            current, level = down, level - 1
    return current


def _moved(extras: Extras, level: int, by: int) -> Extras:
    return tuple(extra + by if extra == level else extra for extra in extras)
