"""Looped breadth-first: all micro-batches through one stage of a rank, then through its next
(Lamy-Poirier 2023, "Breadth-First Pipeline Parallelism")."""

from __future__ import annotations

import math

from holmes.schedule.counts import check_counts, check_virtual
from holmes.schedule.form import Form, common_bubble
from holmes.schedule.instruction import Action, Op, Schedule
from holmes.schedule.timeline import Durations


def looped_bfs(stages: int, microbatches: int, virtual_stages: int) -> Schedule:
    """GPipe with v stages per rank: the bubble of interleaving, all activations held.

    A stage's gradients are complete after one run over the micro-batches, early for
    the last stages, so that their exchange hides under the backward of the others.

    Args:
        stages: pipeline ranks p, at least 2.
        microbatches: per step and replica m; with m < p the ranks wait between loops.
        virtual_stages: stages per rank v, at least 2.

    Raises:
        ConfigError: for counts below these.
    """
    check_counts(stages, microbatches)
    check_virtual("looped-bfs", stages, virtual_stages)
    forward = range(microbatches)
    loops = range(virtual_stages)
    actions = tuple(
        tuple(Action(Op.FORWARD, loop * stages + rank, m) for loop in loops for m in forward)
        + tuple(
            Action(Op.BACKWARD, loop * stages + rank, m)
            for loop in reversed(loops)
            for m in reversed(forward)
        )
        for rank in range(stages)
    )
    # The first rank takes up a micro-batch again m - p actions after the last has sent it.
    ahead = 2 + max(0, microbatches - stages)
    return Schedule(
        "looped-bfs",
        stages,
        microbatches,
        actions,
        (microbatches,) * (stages * virtual_stages),
        (),
        virtual_stages,
        ahead,
    )


def _bubble(schedule: Schedule, durations: Durations) -> float:
    """With fewer micro-batches than ranks each loop waits for its first to come round:
    (v - 1) (p - m) (f + b) more than the others have."""
    late = (schedule.virtual_stages - 1) * max(0, schedule.stages - schedule.microbatches)
    again = late * (durations.forward + durations.backward)
    return common_bubble(schedule, durations) + again


FORM = Form(
    name="looped-bfs",
    make=lambda p, m, v, extra: looped_bfs(p, m, v),
    in_flight=lambda s, p, v: math.inf + 0 * s,
    fills_after=None,
    bubble=_bubble,
    loops=True,
    fixed="it runs all forwards before any backward",
    breadth_first=True,
)
