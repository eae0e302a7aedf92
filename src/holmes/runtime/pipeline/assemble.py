"""Put one rank together from a Plan: its stages, its optimiser, its interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from holmes.cost.model import owned_elements
from holmes.models.common.context import ContextSplit
from holmes.models.common.tensor import TensorSplit
from holmes.plan.boundary import boundary_bytes
from holmes.plan.plan import Plan, Stage
from holmes.plan.program import program_of
from holmes.runtime.checkpoint.manifest import Box
from holmes.runtime.context.share import with_context
from holmes.runtime.groups import Groups
from holmes.runtime.pipeline.interpreter import Interpreter
from holmes.runtime.pipeline.pace import Pace
from holmes.runtime.pipeline.program import StagePlace
from holmes.runtime.pipeline.recompute import recompute_attention
from holmes.runtime.pipeline.stage import Autocast, LossFunction, StageSpec
from holmes.runtime.pipeline.virtual import BlockSeconds, VirtualOptimizer, VirtualStage
from holmes.runtime.sharding.bucket_state import AdamWSettings
from holmes.runtime.sharding.buckets import FlatBucket, Slot, flatten, slots_of
from holmes.runtime.sharding.optimizer import ShardedAdamW
from holmes.runtime.tensor.share import Share, share_of

Optimizer = TypeVar("Optimizer")
ReadParameter = Callable[[str, tuple[int, ...], Box | None], Tensor]


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
        tensor: how it splits over tensor ranks; None: it cannot.
        read: a parameter's values by canonical name, whole shape and the part that is held
            (an interval of every dim; None: all), for parameters built without storage.
        apart: micro-batches keep documents apart.
        context: how it runs on part of the tokens; None: it cannot.
    """

    build: Callable[[int, int], Sequence[nn.Module]]
    loss: LossFunction
    decays: Callable[[Sequence[int]], bool]
    tied: Sequence[tuple[str, str]] = ()
    autocast: Autocast = nullcontext
    pace: Pace | None = None
    tensor: TensorSplit | None = None
    read: ReadParameter | None = None
    apart: bool = False
    context: ContextSplit | None = None


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
    whole = share_of(plan, groups, model.tensor, model.pace)
    share = with_context(whole, plan, groups, model.context, model.pace)
    built = {stage.stage: share.build(model.build, stage) for stage in mine}
    slots = _slots(plan, built, model, share)
    buckets = _buckets(plan, groups, slots, model)
    optimizer = ShardedAdamW(
        buckets,
        settings,
        keep_whole=plan.sharding == "none",
        shared=share.shared,
        whole_ties=plan.layout is None,
        quantize=plan.quantize,
    )
    if plan.recompute == "selective":
        recompute_attention(block for blocks in built.values() for block in blocks)
    boundary = _boundary(plan, groups, slots[0].parameter.dtype)
    specs = [
        StageSpec(
            place_of(plan, stage),
            built[stage.stage],
            share.loss(model.loss),
            plan.batch.global_ / len(boundary),
            boundary,
            recompute=plan.recompute == "full",
            autocast=model.autocast,
            apart=model.apart,
            scale=optimizer.scale,
        )
        for stage in mine
    ]
    stages = [share.stage(spec) for spec in specs]
    interpreter = Interpreter(
        program_of(plan), groups, stages, optimizer, _tensors(plan), model.pace
    )
    interpreter.parts = share.log
    return Engine(interpreter, optimizer, tuple(slots))


def _slots(
    plan: Plan, built: Mapping[int, Sequence[nn.Module]], model: StageModel, share: Share
) -> list[Slot]:
    """The parameters of this rank's stages, in model order."""
    return [
        slot
        for stage in plan.stages
        if stage.stage in built
        for slot in slots_of(
            built[stage.stage],
            stage.blocks[0],
            plan.workload,
            model.decays,
            model.tied,
            share.pieces,
        )
    ]


def _buckets(
    plan: Plan, groups: Groups, slots: Sequence[Slot], model: StageModel
) -> tuple[FlatBucket, ...]:
    """The flat buckets of this rank, with their values."""
    mine = stages_of(plan, groups.rank)
    planned = [bucket for stage in mine for bucket in stage.buckets]
    shards = mine[0].layout.shards(plan.sharding)
    place = mine[0].ranks.index(groups.rank) // mine[0].layout.tp
    buckets = flatten(slots, planned, shards, place, groups.device)
    if model.read is not None:
        fill(slots, model.read)
    for bucket in buckets:
        bucket.settle()
    return buckets


def _boundary(plan: Plan, groups: Groups, dtype: torch.dtype) -> Tensor:
    """What this rank passes on of a micro-batch [samples, tokens, hidden], values left open."""
    first, last = plan.samples_of(groups.rank)
    stage = next(stage for stage in plan.stages if groups.rank in stage.ranks)
    tokens = plan.tokens_held // (stage.layout.tp if plan.scatter_gather else 1)
    shape = (last - first, tokens, plan.workload.hidden)
    return torch.empty(shape, dtype=dtype, device=groups.device)


@torch.no_grad()
def fill(slots: Sequence[Slot], read: ReadParameter) -> None:
    """Read what each parameter holds, one after the other; padding stays zero."""
    for slot in slots:
        box = slot.piece.box if slot.piece else None
        values = read(slot.name, slot.shape, box)
        slot.parameter[tuple(slice(0, size) for size in values.shape)].copy_(values)


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
            boundary_bytes(plan, stage.blocks[0], groups.rank),
            boundary_bytes(plan, stage.blocks[1], groups.rank),
        )
        for stage in mine
    ]
    program = program_of(plan)
    step = seconds_per_element * owned_elements(plan, groups.rank)
    optimizer = VirtualOptimizer(program.ranks[groups.rank], plan.world_size, step)
    interpreter = Interpreter(program, groups, stages, optimizer, _tensors(plan))
    return Engine(interpreter, optimizer)


def _tensors(plan: Plan) -> int:
    return sum(block.tensors for block in plan.workload.blocks)
