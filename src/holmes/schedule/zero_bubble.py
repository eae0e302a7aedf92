"""Zero-bubble H1: the backward split in two (Qi et al. 2023, "Zero Bubble Pipeline
Parallelism", section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from holmes.errors import HolmesError
from holmes.schedule.counts import check_counts, extras_per_cut, most_in_flight
from holmes.schedule.form import Form
from holmes.schedule.instruction import Action, Op, Schedule
from holmes.schedule.timeline import Durations


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


def _bubble(schedule: Schedule, durations: Durations) -> float:
    """(p - 1) (f + i - w) while w is the least of the three (Qi et al. 2023, table 1, H1); in
    general (p - 1) max(f, i, f + i - w). With fewer micro-batches than stages, and so too few
    weight gradients to fill with, (p - m) min(f, i, w) more.

    Raises:
        HolmesError: with extra warm-up there is no closed form.
    """
    if any(schedule.extra_warmup):
        raise HolmesError("no closed form of zero-bubble with extra warm-up")
    p, m = schedule.stages, schedule.microbatches
    weight, rest = durations.weight, durations.backward - durations.weight
    each = max(durations.forward, rest, durations.forward + rest - weight)
    return (p - 1) * each + max(0, p - m) * min(durations.forward, rest, weight)


FORM = Form(
    name="zero-bubble",
    make=lambda p, m, v, extra: zero_bubble(p, m, extra),
    # On every stage what 1F1B holds on the first, s of them only for their weights'
    # gradients (Qi et al. 2023, section 2.3).
    in_flight=lambda s, p, v: p + 0 * s,
    fills_after=lambda p, v: p + 1,
    bubble=_bubble,
    splits_backward=True,
)
