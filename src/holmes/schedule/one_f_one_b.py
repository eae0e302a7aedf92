"""1F1B (PipeDream-Flush, used by Megatron-LM), with extra warm-up forwards for slow cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from holmes.schedule.counts import check_counts, extras_per_cut
from holmes.schedule.form import Form, Level
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


def _levels(stages: int, microbatches: int, extras: Sequence[int]) -> Iterator[Level]:
    """With W(s) forwards before the first backward of stage s, forward k of it is on level
    2k + s and its backward k on 2(k + W(s)) + s + 1."""
    warmups = [0] * stages
    for stage in range(stages - 2, -1, -1):
        warmups[stage] = warmups[stage + 1] + 1 + extras[stage]
    first_backward = [2 * warmups[s] + s + 1 for s in range(stages)]
    begun = ended = stages
    for level in range(first_backward[0] + 2 * microbatches - 1):
        start = max(level % 2, level - 2 * microbatches + 2)
        stop = min(stages, level + 1)
        if start < stop:
            yield Level(True, start, stop, 2, level if level < stages else None)
        while begun > 0 and first_backward[begun - 1] <= level:
            begun -= 1
        while ended > 0 and first_backward[ended - 1] <= level - 2 * microbatches:
            ended -= 1
        start = begun + (begun + level + 1) % 2
        if start < ended:
            final = ended - 1 - (ended - 1 - start) % 2
            last = first_backward[final] == level - 2 * microbatches + 2
            yield Level(False, start, ended, 2, final if last else None)


FORM = Form(
    name="1f1b",
    make=lambda p, m, v, extra: one_f_one_b(p, m, extra),
    in_flight=lambda s, p, v: p - s,
    fills_after=lambda p, v: p,
    levels=_levels,
)
