"""1F1B (PipeDream-Flush, used by Megatron-LM), with extra warm-up forwards for slow cuts."""

from __future__ import annotations

from collections.abc import Sequence

from holmes.schedule.counts import check_counts, extras_per_cut
from holmes.schedule.instruction import Action, Op, Schedule


def one_f_one_b(stages: int, microbatches: int, extra_warmup: int | Sequence[int] = 0) -> Schedule:
    """One forward, one backward, after a warm-up that fills the pipeline.

    Stage s runs ``sum(1 + extra_warmup[c] for c in cuts at or after s)``
    forwards before its first backward. With no extra this is the usual p-1-s.
    Plain 1F1B leaves no slack across a cut: a transfer time d stalls every
    micro-batch (two stages: m x d). One extra warm-up forward hides it as long
    as 2 d is at most one micro-batch's forward and backward, leaving 2 d.

    Args:
        stages: number of pipeline stages p, at least 1.
        microbatches: micro-batches per step and replica m, at least 1.
        extra_warmup: extra forwards in flight, one number for every cut or one
            number per cut (length p-1).

    Raises:
        ConfigError: for empty pipelines, negative or wrongly many extras.
    """
    check_counts(stages, microbatches)
    extras = extras_per_cut(stages, extra_warmup)
    actions: list[tuple[Action, ...]] = []
    in_flight: list[int] = []
    for stage in range(stages):
        warmup = min(microbatches, sum(1 + extra for extra in extras[stage:]))
        order = [Action(Op.FORWARD, stage, m) for m in range(warmup)]
        for m in range(warmup, microbatches):
            order.append(Action(Op.FORWARD, stage, m))
            order.append(Action(Op.BACKWARD, stage, m - warmup))
        order += [Action(Op.BACKWARD, stage, m) for m in range(microbatches - warmup, microbatches)]
        actions.append(tuple(order))
        in_flight.append(min(microbatches, warmup + 1))
    return Schedule("1f1b", stages, microbatches, tuple(actions), tuple(in_flight), extras)
