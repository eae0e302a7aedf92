"""GPipe: all forwards, then all backwards in reverse order (Huang et al. 2019)."""

from __future__ import annotations

from holmes.schedule.counts import check_counts
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
