"""Put one rank together from a Plan: its stage, its optimiser, its interpreter."""

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
from holmes.runtime.pipeline.stage import Autocast, LossFunction, StagePlace, TorchStage
from holmes.runtime.pipeline.virtual import VirtualOptimizer, VirtualStage
from holmes.runtime.sharding.bucket_state import AdamWSettings
from holmes.runtime.sharding.buckets import Slot, flatten, slots_of
from holmes.runtime.sharding.optimizer import ShardedAdamW

Optimizer = TypeVar("Optimizer")


@dataclass(frozen=True)
class StageModel:
    """The real blocks of one stage and what parallel code must know about them.

    Attributes:
        blocks: modules of the stage's blocks, in model order.
        loss: of the last block's output and the targets, a mean over the micro-batch.
        decays: from a tensor's shape, whether weight decay applies.
        tied: pairs of names of one shared weight, the canonical one first.
        autocast: makes the context of the forward passes.
        pace: what holds the computation to the speed of the device it stands for.
    """

    blocks: Sequence[nn.Module]
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
    place: StagePlace
    slots: tuple[Slot, ...] = ()


def stage_of(plan: Plan, rank: int) -> Stage:
    """The stage that a logical rank holds."""
    return next(stage for stage in plan.stages if rank in stage.ranks)


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
    stage = stage_of(plan, groups.rank)
    place = place_of(plan, stage)
    members = len(stage.ranks)
    workload = plan.workload
    slots = slots_of(model.blocks, place.start, workload, model.decays, model.tied)
    buckets = flatten(slots, stage.buckets, members, stage.ranks.index(groups.rank))
    optimizer = ShardedAdamW(buckets, settings, members, keep_whole=plan.sharding == "none")
    program = TorchStage(
        place,
        model.blocks,
        model.loss,
        plan.schedule.microbatches * plan.layout.dp,
        torch.empty(
            (plan.batch.micro, workload.sequence, workload.hidden),
            dtype=slots[0].parameter.dtype,
            device=groups.device,
        ),
        recompute=plan.recompute == "full",
        autocast=model.autocast,
    )
    interpreter = Interpreter(
        program_of(plan), groups, program, optimizer, _tensors(plan), model.pace
    )
    return Engine(interpreter, optimizer, place, tuple(slots))


def virtual_engine(
    plan: Plan,
    groups: Groups,
    seconds: Mapping[int, tuple[float, float]],
    seconds_per_element: float,
) -> Engine[VirtualOptimizer]:
    """The engine of a rank that sleeps instead of computing.

    Args:
        seconds: block index to (forward, backward) seconds of one micro-batch.
        seconds_per_element: of the optimiser's update of one parameter.
    """
    stage = stage_of(plan, groups.rank)
    place = place_of(plan, stage)
    blocks = plan.workload.blocks
    mine = {index: seconds[index] for index in range(place.start, place.stop)}
    program = VirtualStage(
        place,
        mine,
        0 if place.is_first else int(blocks[place.start - 1].output_bytes * plan.batch.micro),
        0 if place.is_last else int(blocks[place.stop - 1].output_bytes * plan.batch.micro),
    )
    optimizer = VirtualOptimizer(
        stage.buckets,
        len(stage.ranks),
        seconds_per_element,
        gradient_bytes=plan.workload.gradient_bytes,
        parameter_bytes=plan.workload.parameter_bytes,
    )
    interpreter = Interpreter(program_of(plan), groups, program, optimizer, _tensors(plan))
    return Engine(interpreter, optimizer, place)


def _tensors(plan: Plan) -> int:
    return sum(block.tensors for block in plan.workload.blocks)
