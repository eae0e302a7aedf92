"""Put one rank together from a Plan: its stages, its optimiser, its interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from holmes.plan.plan import Plan, Stage
from holmes.plan.program import program_of
from holmes.runtime.groups import Groups
from holmes.runtime.pipeline.interpreter import Interpreter
from holmes.runtime.pipeline.pace import Pace
from holmes.runtime.pipeline.recompute import recompute_attention
from holmes.runtime.pipeline.stage import Autocast, LossFunction, StagePlace, TorchStage
from holmes.runtime.pipeline.virtual import BlockSeconds, VirtualOptimizer, VirtualStage
from holmes.runtime.sharding.bucket_state import AdamWSettings
from holmes.runtime.sharding.buckets import Slot, flatten, slots_of
from holmes.runtime.sharding.optimizer import ShardedAdamW

Optimizer = TypeVar("Optimizer")


@dataclass(frozen=True)
class StageModel:
    """The real blocks of a model and what parallel code must know about them.

    Attributes:
        build: the modules of blocks [start, stop), in model order.
        loss: of the last block's output and the targets, a mean over the micro-batch.
        decays: from a tensor's shape, whether weight decay applies.
        tied: pairs of names of one shared weight, the canonical one first.
        autocast: makes the context of the forward passes.
        pace: what holds the computation to the speed of the device it stands for.
    """

    build: Callable[[int, int], Sequence[nn.Module]]
    loss: LossFunction
    decays: Callable[[Sequence[int]], bool]
    tied: Sequence[tuple[str, str]] = ()
    autocast: Autocast = nullcontext
    pace: Pace | None = None


@dataclass(frozen=True)
class Engine(Generic[Optimizer]):
    """One rank, ready to run steps. ``slots`` are its parameters; empty on virtual devices."""

    interpreter: Interpreter
    optimizer: Optimizer
    slots: tuple[Slot, ...] = ()


def stages_of(plan: Plan, rank: int) -> tuple[Stage, ...]:
    """The (virtual) stages that a logical rank holds, in model order."""
    return tuple(stage for stage in plan.stages if rank in stage.ranks)


def place_of(plan: Plan, stage: Stage) -> StagePlace:
    """Where a stage stands in the chain."""
    return StagePlace(stage.stage, *stage.blocks, len(plan.workload.blocks))


def real_engine(
    plan: Plan, groups: Groups, model: StageModel, settings: AdamWSettings
) -> Engine[ShardedAdamW]:
    """The engine of a rank that computes. The blocks' parameters move into flat buckets.

    Raises:
        ConfigError: when the model is not the one that was planned.
    """
    mine = stages_of(plan, groups.rank)
    ranks = mine[0].ranks
    workload = plan.workload
    built = {stage.stage: model.build(*stage.blocks) for stage in mine}
    slots = [
        slot
        for stage in mine
        for slot in slots_of(
            built[stage.stage], stage.blocks[0], workload, model.decays, model.tied
        )
    ]
    planned = [bucket for stage in mine for bucket in stage.buckets]
    buckets = flatten(slots, planned, len(ranks), ranks.index(groups.rank))
    optimizer = ShardedAdamW(buckets, settings, len(ranks), keep_whole=plan.sharding == "none")
    boundary = torch.empty(
        (plan.batch.micro, workload.sequence, workload.hidden),
        dtype=slots[0].parameter.dtype,
        device=groups.device,
    )
    if plan.recompute == "selective":
        recompute_attention(block for blocks in built.values() for block in blocks)
    stages = [
        TorchStage(
            place_of(plan, stage),
            built[stage.stage],
            model.loss,
            plan.schedule.microbatches * plan.layout.dp,
            boundary,
            recompute=plan.recompute == "full",
            autocast=model.autocast,
        )
        for stage in mine
    ]
    interpreter = Interpreter(
        program_of(plan), groups, stages, optimizer, _tensors(plan), model.pace
    )
    return Engine(interpreter, optimizer, tuple(slots))


def virtual_engine(
    plan: Plan,
    groups: Groups,
    seconds: Mapping[int, BlockSeconds],
    seconds_per_element: float,
) -> Engine[VirtualOptimizer]:
    """The engine of a rank that sleeps instead of computing.

    Args:
        seconds: by block; those of this rank's stages at least.
        seconds_per_element: of the optimiser's update of one parameter.
    """
    mine = stages_of(plan, groups.rank)
    stages = [
        VirtualStage(
            place_of(plan, stage),
            {index: seconds[index] for index in range(*stage.blocks)},
            _boundary_bytes(plan, stage.blocks[0]),
            _boundary_bytes(plan, stage.blocks[1]),
        )
        for stage in mine
    ]
    optimizer = VirtualOptimizer(
        tuple(bucket for stage in mine for bucket in stage.buckets),
        len(mine[0].ranks),
        seconds_per_element,
        gradient_bytes=plan.workload.gradient_bytes,
        parameter_bytes=plan.workload.parameter_bytes,
    )
    interpreter = Interpreter(program_of(plan), groups, stages, optimizer, _tensors(plan))
    return Engine(interpreter, optimizer)


def _boundary_bytes(plan: Plan, border: int) -> int:
    """Bytes of one micro-batch between block ``border`` - 1 and the next; 0 at the ends."""
    blocks = plan.workload.blocks
    if border in (0, len(blocks)):
        return 0
    return int(blocks[border - 1].output_bytes * plan.batch.micro)


def _tensors(plan: Plan) -> int:
    return sum(block.tensors for block in plan.workload.blocks)
