"""The recurrence's times of a draft, from its estimates alone: no plan, no groups are built.

Says what :func:`holmes.simulate.closed_form.times_of` says of the draft's plan,
with exchanges and transfers as lines through two points; a test compares the two.
"""

from __future__ import annotations

from itertools import accumulate

from holmes.planner.buckets import buckets_of
from holmes.planner.draft import Draft
from holmes.simulate.recurrence import PartTimes, PipelineTimes, StageTimes


def pipeline_times(draft: Draft, norms: float) -> PipelineTimes:
    """Times of all stages and cuts; ``norms`` are the seconds of the world's all-reduce."""
    ground, estimates = draft.estimates.ground, draft.estimates
    cuts = estimates.cut_seconds
    workload = estimates.cost.workload
    tied = 0.0
    if workload.tied is not None and draft.shape.layout.pp > 1:
        bytes_ = workload.tied_parameters * workload.gradient_bytes
        tied = ground.wrap.seconds(bytes_ / draft.shape.layout.tp, 2)
    return PipelineTimes(
        stages=tuple(_stage(draft, stage) for stage in range(draft.shape.layout.pp)),
        down=cuts,
        up=cuts,
        norms=norms,
        tied=tied,
        exchanges=ground.replicas > 1,
    )


def _stage(draft: Draft, stage: int) -> StageTimes:
    estimates, ground = draft.estimates, draft.estimates.ground
    workload = estimates.cost.workload
    forward, backward = estimates.rows[stage]
    start, stop = draft.borders[stage]
    forwards = list(accumulate(forward[start:stop], initial=0.0))
    backwards = list(accumulate(backward[start:stop], initial=0.0))
    buckets = buckets_of(
        workload,
        draft.borders[stage],
        whole_model=len(draft.borders) == 1,
        bucket_mb=draft.request.wishes.bucket_mb,
    )
    exchange = ground.exchanges[stage]
    every = not estimates.gathers_each_time
    parts = []
    for bucket in buckets:
        a, b = bucket.blocks[0] - start, bucket.blocks[1] - start
        parts.append(
            PartTimes(
                gather=exchange.seconds(bucket.elements * workload.parameter_bytes, 1)
                if every
                else 0.0,
                forward=forwards[b] - forwards[a],
                backward=backwards[b] - backwards[a],
                reduce=exchange.seconds(bucket.elements * workload.gradient_bytes, 1),
                tied=bucket.tied,
            )
        )
    held = sum(bucket.elements for bucket in buckets)
    return StageTimes(tuple(parts), estimates.step_seconds(stage, held))
