"""Zero-bubble H1: the backward split in two (Qi et al. 2023, "Zero Bubble Pipeline
Parallelism", section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from holmes.schedule.counts import check_counts, extras_per_cut, most_in_flight
from holmes.schedule.instruction import Action, Op, Schedule


def zero_bubble(stages: int, microbatches: int, extra_warmup: int | Sequence[int] = 0) -> Schedule:
    """1F1B whose weight gradients fill the bubble; at most p micro-batches on each stage.

    The stages above wait only for the gradient of a stage's input, so it is computed
    alone; the weights' follow later. Stage s lets s input gradients run ahead, which
    is as many as keep its micro-batches in flight at p, the most that 1F1B holds on
    any stage. In the drain each wait for the next gradient is filled with one. An extra
    warm-up forward at a cut lets as many more run ahead on the stages below it.

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
    actions = []
    for stage in range(stages):
        warmup = min(microbatches, sum(1 + extra for extra in extras[stage:]))
        lead = sum(1 + extra for extra in extras[:stage])
        order = [Action(Op.FORWARD, stage, m) for m in range(warmup)]
        for m in range(microbatches):
            if m + warmup < microbatches:
                order.append(Action(Op.FORWARD, stage, m + warmup))
            order.append(Action(Op.INPUT_GRADIENT, stage, m))
            if m >= lead:
                order.append(Action(Op.WEIGHT_GRADIENT, stage, m - lead))
        left = range(max(0, microbatches - lead), microbatches)
        order += [Action(Op.WEIGHT_GRADIENT, stage, m) for m in left]
        actions.append(tuple(order))
    return Schedule(
        "zero-bubble",
        stages,
        microbatches,
        tuple(actions),
        most_in_flight(actions, stages),
        extras,
    )
