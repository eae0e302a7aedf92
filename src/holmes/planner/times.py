"""The recurrence's times of a draft, from its estimates alone: no plan, no groups are built.

Says what :func:`holmes.simulate.closed_form.times_of` says of the draft's plan,
with exchanges and transfers as lines through two points; a test compares the two.
"""

from __future__ import annotations

from itertools import accumulate

from holmes.planner.buckets import buckets_of
from holmes.planner.draft import Draft
from holmes.schedule.generate import FORMS
from holmes.simulate.recurrence import PartTimes, PipelineTimes, StageTimes


def pipeline_times(draft: Draft, norms: float) -> PipelineTimes:
    """Times of all stages and cuts; ``norms`` are the seconds of the world's all-reduce."""
    ground, estimates = draft.estimates.ground, draft.estimates
    workload = estimates.cost.workload
    tied = 0.0
    if workload.tied is not None and draft.shape.layout.pp > 1:
        bytes_ = workload.tied_parameters * workload.gradient_bytes
        tied = ground.wrap.seconds(bytes_ / draft.shape.layout.tp, 2)
    cuts = [pass_seconds(draft, stage) for stage in range(len(draft.borders) - 1)]
    return PipelineTimes(
        stages=tuple(_stage(draft, stage) for stage in range(len(draft.borders))),
        down=tuple(cuts),
        up=tuple(cuts),
        norms=norms,
        tied=tied,
        exchanges=ground.replicas > 1,
    )


def pass_seconds(draft: Draft, stage: int) -> float:
    """One micro-batch from a virtual stage to the next, perhaps from the last rank to the first."""
    estimates, pp = draft.estimates, draft.shape.layout.pp
    if stage % pp < pp - 1:
        return estimates.cut_seconds[stage % pp]
    return estimates.ground.wrap.seconds(estimates.boundary, 1)


def _stage(draft: Draft, stage: int) -> StageTimes:
    estimates = draft.estimates
    rank = stage % draft.shape.layout.pp
    workload = estimates.cost.workload
    forward, backward = estimates.rows[rank]
    start, stop = draft.borders[stage]
    forwards = list(accumulate(forward[start:stop], initial=0.0))
    backwards = list(accumulate(backward[start:stop], initial=0.0))
    weights = [0.0] * (stop - start + 1)
    if FORMS[draft.schedule].splits_backward:
        weights = list(accumulate(estimates.weights[rank][start:stop], initial=0.0))
    buckets = buckets_of(
        estimates.ground.cost.workload,
        draft.borders[stage],
        whole_model=draft.shape.layout.pp == 1,
        bucket_mb=draft.request.wishes.bucket_mb,
        ep=draft.shape.layout.ep,
    )
    level = estimates.levels[rank]
    parts = []
    for bucket in buckets:
        sizes = bucket.elements, bucket.expert_elements
        a, b = bucket.blocks[0] - start, bucket.blocks[1] - start
        parts.append(
            PartTimes(
                gather=level.refreshes(*sizes, workload.parameter_bytes, 1),
                forward=forwards[b] - forwards[a],
                backward=backwards[b] - backwards[a],
                reduce=level.sums(*sizes, workload.gradient_bytes, 1),
                tied=bucket.tied,
                weight=weights[b] - weights[a],
            )
        )
    step = 0.0
    if stage == rank:  # one step for all stages of a rank
        mine = draft.borders[rank :: draft.shape.layout.pp]
        held = [estimates.parameters(*one) for one in mine]
        step = estimates.step_seconds(rank, sum(a for a, _ in held), sum(b for _, b in held))
    return StageTimes(tuple(parts), step)
