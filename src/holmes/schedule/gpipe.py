"""GPipe: all forwards, then all backwards in reverse order (Huang et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from holmes.schedule.counts import check_counts
from holmes.schedule.form import Form, Level
from holmes.schedule.instruction import Action, Op, Schedule


def gpipe(stages: int, microbatches: int) -> Schedule:
    """The GPipe order; bubble fraction (p-1)/(m+p-1), m micro-batches in flight.

    Args:
        stages: number of pipeline stages p, at least 1.
        microbatches: micro-batches per step and replica m, at least 1.

    Raises:
        ConfigError: when either is below 1.
    """
    check_counts(stages, microbatches)
    forward = list(range(microbatches))
    actions = tuple(
        tuple(Action(Op.FORWARD, stage, m) for m in forward)
        + tuple(Action(Op.BACKWARD, stage, m) for m in reversed(forward))
        for stage in range(stages)
    )
    return Schedule("gpipe", stages, microbatches, actions, (microbatches,) * stages)


def _levels(stages: int, microbatches: int, extras: Sequence[int]) -> Iterator[Level]:
    """Forward k of stage s on level k + s; in reverse order of micro-batches, its backward
    k on m + p - 1 + (p - 1 - s) + k."""
    count = microbatches + stages - 1
    for level in range(count):
        start, stop = max(0, level - microbatches + 1), min(stages, level + 1)
        yield Level(True, start, stop, 1, level if level < stages else None)
    for level in range(count):
        # Stage p-1-d runs its backward number level - d.
        start, stop = max(0, stages - 1 - level), min(stages, stages + microbatches - 1 - level)
        edge = stages - 1 - (level - microbatches + 1)
        yield Level(False, start, stop, 1, edge if level >= microbatches - 1 else None)


FORM = Form(
    name="gpipe",
    make=lambda p, m, v, extra: gpipe(p, m),
    in_flight=lambda s, p, v: math.inf + 0 * s,
    fills_after=None,
    fixed="it runs all forwards before any backward",
    breadth_first=True,
    levels=_levels,
)
