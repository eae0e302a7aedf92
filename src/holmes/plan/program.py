"""Regenerate the instruction lists of a Plan; the only door to them for simulator and runtime."""

from __future__ import annotations

from dataclasses import replace

from holmes.errors import DataError
from holmes.plan.boundary import parts_between
from holmes.plan.plan import Plan, Stage
from holmes.plan.sharding import exchanges_of
from holmes.schedule.generate import generate
from holmes.schedule.instruction import Bucket, Schedule, StageShape
from holmes.schedule.lower import Program, lower

LOSS_SLOTS = 1
"""The loss rides behind the squared norms, so that all ranks know it and agree on the step."""
TIED_GROUP = "tied"
"""Sums the gradients of a weight that two stages share."""


def schedule_of(plan: Plan) -> Schedule:
    """The schedule a plan names, regenerated."""
    choice = plan.schedule
    return generate(
        choice.name,
        plan.pp,
        choice.microbatches,
        choice.virtual_stages,
        choice.extra_warmup_per_cut or choice.extra_warmup,
    )


def stage_shape(plan: Plan, stage: Stage) -> StageShape:
    """The shape of one stage: what crosses its cuts, buckets and the names of its groups.

    The stages of one pipeline rank share its data group, which is named after the first.
    """
    index = stage.stage
    inputs = parts_between(plan, index - 1)[1] if index > 0 else ()
    outputs = parts_between(plan, index)[0] if index + 1 < len(plan.stages) else ()
    tp = stage.layout.tp
    has_data = len(stage.ranks) > tp
    data = f"data.s{index % plan.pp}"
    data_groups = tuple(f"{data}.t{i % tp}" for i in range(len(stage.ranks)))
    return StageShape(
        stage=index,
        blocks=stage.blocks,
        ranks=stage.ranks,
        buckets=tuple(_tensor_share(plan, b, tp) for b in _with_borrowed(plan, stage)),
        data_group=data if has_data else None,
        inputs=inputs,
        outputs=outputs,
        tied_group=_tied_groups(plan, stage),
        data_groups=data_groups if has_data and tp > 1 else (),
        exchanges=tuple(
            exchanges_of(plan, stage.layout, data if tp == 1 else data_groups[i], i // tp)
            for i in range(len(stage.ranks))
        )
        if has_data
        else (),
    )


def _tied_groups(plan: Plan, stage: Stage) -> tuple[str, ...]:
    """The group that sums a shared weight, for each rank: the like-placed rank of the other
    stage, or all ranks of both where these stages differ."""
    if not any(bucket.tied for bucket in stage.buckets):
        return ()
    if plan.layout is None:
        return (TIED_GROUP,) * len(stage.ranks)
    return tuple(f"{TIED_GROUP}.{position}" for position in range(len(stage.ranks)))


def _with_borrowed(plan: Plan, stage: Stage) -> tuple[Bucket, ...]:
    """The buckets of a stage; where it holds both ends of a tie, the head's borrows the table."""
    tied = plan.workload.tied
    if tied is None or any(bucket.tied for bucket in stage.buckets):
        return stage.buckets
    ends = [b.index for end in tied for b in stage.buckets if b.blocks[0] <= end < b.blocks[1]]
    if len(set(ends)) < 2:
        return stage.buckets
    lender, borrower = ends
    return tuple(replace(b, borrows=lender) if b.index == borrower else b for b in stage.buckets)


def _tensor_share(plan: Plan, bucket: Bucket, tp: int) -> Bucket:
    """The part of a bucket that one of ``tp`` tensor ranks holds.

    A shared weight is summed whole where its two stages are divided differently.
    """
    if tp == 1:
        return bucket
    whole = plan.layout is None
    return replace(
        bucket,
        elements=-(-bucket.elements // tp),
        expert_elements=-(-bucket.expert_elements // tp),
        tied_elements=bucket.tied_elements if whole else -(-bucket.tied_elements // tp),
    )


def program_of(plan: Plan, *, check: bool = True) -> Program:
    """The instruction lists of one step.

    Raises:
        DataError: when the digest in the plan does not match, so the plan was
            made by a version whose schedules differ.
    """
    shapes = tuple(stage_shape(plan, stage) for stage in plan.stages)
    program = lower(
        schedule_of(plan),
        shapes,
        overlap=plan.overlap,
        norm_tensors=sum(block.tensors for block in plan.workload.blocks) + LOSS_SLOTS,
        gradient_bytes=plan.workload.gradient_bytes,
        parameter_bytes=plan.workload.parameter_bytes,
    )
    if check and plan.schedule.digest and program.digest != plan.schedule.digest:
        raise DataError(
            "the plan's schedule digest does not match the instructions it generates",
            where=f"schedule.digest: {plan.schedule.digest}, generated {program.digest}",
            why="the plan was edited, or made by another version of holmes",
            next_step="plan again with `holmes plan`",
        )
    return program
