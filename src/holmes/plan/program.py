"""Regenerate the instruction lists of a Plan; the only door to them for simulator and runtime."""

from __future__ import annotations

from dataclasses import replace

from holmes.errors import DataError
from holmes.plan.plan import Plan, Stage
from holmes.schedule.generate import generate
from holmes.schedule.instruction import Bucket, Schedule, StageShape
from holmes.schedule.lower import Program, lower

LOSS_SLOTS = 1
"""The loss rides behind the squared norms, so that all ranks know it and agree on the step."""


def schedule_of(plan: Plan) -> Schedule:
    """The schedule a plan names, regenerated."""
    choice = plan.schedule
    return generate(
        choice.name,
        plan.layout.pp,
        choice.microbatches,
        choice.virtual_stages,
        choice.extra_warmup_per_cut or choice.extra_warmup,
    )


def stage_shape(plan: Plan, stage: Stage) -> StageShape:
    """The shape of one stage: boundary bytes, buckets and the names of its groups.

    The stages of one pipeline rank share its data group, which is named after the first.
    """
    blocks = plan.workload.blocks
    start, stop = stage.blocks
    micro = plan.batch.micro
    index = stage.stage
    previous = plan.stages[index - 1].ranks if index > 0 else ()
    following = plan.stages[index + 1].ranks if index + 1 < len(plan.stages) else ()
    pairs_in = tuple(f"pipeline.{a}-{b}" for a, b in zip(previous, stage.ranks, strict=False))
    pairs_out = tuple(f"pipeline.{a}-{b}" for a, b in zip(stage.ranks, following, strict=False))
    tied = any(bucket.tied for bucket in stage.buckets)
    tp = stage.layout.tp
    has_data = len(stage.ranks) > tp
    data = f"data.s{index % plan.layout.pp}"
    data_groups = tuple(f"{data}.t{i % tp}" for i in range(len(stage.ranks)))
    return StageShape(
        stage=index,
        blocks=stage.blocks,
        ranks=stage.ranks,
        buckets=tuple(_tensor_share(bucket, tp) for bucket in stage.buckets),
        input_bytes=int(blocks[start - 1].output_bytes * micro) // tp if start > 0 else 0,
        output_bytes=int(blocks[stop - 1].output_bytes * micro) // tp if stop < len(blocks) else 0,
        data_group=data if has_data else None,
        input_groups=pairs_in,
        output_groups=pairs_out,
        tied_group=tuple(f"tied.{d}" for d in range(len(stage.ranks))) if tied else (),
        data_groups=data_groups if has_data and tp > 1 else (),
    )


def _tensor_share(bucket: Bucket, tp: int) -> Bucket:
    """The part of a bucket that one of ``tp`` tensor ranks holds.

    A boundary is likewise sent as 1/tp by each tensor rank (the scatter/gather
    of Megatron-LM, SC21 section 4.1).
    """
    if tp == 1:
        return bucket
    return replace(
        bucket,
        elements=-(-bucket.elements // tp),
        tied_elements=-(-bucket.tied_elements // tp),
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
