"""Step time of a Plan without an event loop.

Agrees with :func:`holmes.simulate.events.simulate` where nothing but the
replicas of one cut, or the members of one stage's data groups, share a card or
link at the same time. It differs, and is too low, where several cuts or groups
share one (two cuts over one link, an exchange under activations on one NIC);
and it is too high where replicas of a stage are unequally fast and nothing
couples them before the end, since it takes the slowest of each stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from holmes.cost.model import CostModel, micro_of, owned_elements
from holmes.cost.network import Network
from holmes.cost.software import cut_seconds, exchange_seconds, fabric_of, waits_for_transfers
from holmes.plan.plan import Plan, Stage
from holmes.plan.program import LOSS_SLOTS, schedule_of, stage_shape
from holmes.schedule.generate import FORMS
from holmes.schedule.instruction import Bucket, Op, StageShape
from holmes.schedule.lower import WORLD_GROUP
from holmes.simulate.recurrence import (
    PartTimes,
    PipelineTimes,
    StageTimes,
    Time,
    pipeline_seconds,
)
from holmes.simulate.wavefront import FEWEST_STAGES, wavefront_seconds


def step_seconds(plan: Plan, cost: CostModel) -> float:
    """Predicted seconds of one step of a plan.

    Raises:
        DataError: a group that the schedule needs is missing from the plan.
    """
    times = times_of(plan, cost)
    choice = plan.schedule
    if waits_for_transfers(plan, cost.calibration):
        schedule = replace(schedule_of(plan), ahead=0)
        seconds = pipeline_seconds(schedule, times, overlap=plan.overlap)
    elif FORMS[choice.name].levels is not None and plan.pp >= FEWEST_STAGES:
        extras = choice.extra_warmup_per_cut or (choice.extra_warmup,) * (plan.pp - 1)
        seconds = wavefront_seconds(
            choice.name, choice.microbatches, extras, times, overlap=plan.overlap
        )
    else:
        seconds = pipeline_seconds(schedule_of(plan), times, overlap=plan.overlap)
    return float(seconds)


def times_of(plan: Plan, cost: CostModel) -> PipelineTimes:
    """The times of the recurrence for a plan."""
    network = cost.network(plan.rank_map)
    shapes = [stage_shape(plan, stage) for stage in plan.stages]
    norm_bytes = 8 * (sum(block.tensors for block in plan.workload.blocks) + LOSS_SLOTS)
    norms = 0.0
    if plan.world_size > 1:
        fabric = fabric_of(plan, WORLD_GROUP)
        norms = network.collective(
            Op.ALL_REDUCE, range(plan.world_size), norm_bytes, fabric
        ).seconds
    return PipelineTimes(
        stages=tuple(
            _stage_times(plan, cost, network, stage, shape)
            for stage, shape in zip(plan.stages, shapes, strict=True)
        ),
        down=tuple(cut_seconds(plan, network, shape, up=False) for shape in shapes[:-1]),
        up=tuple(cut_seconds(plan, network, shape, up=True) for shape in shapes[:-1]),
        norms=norms,
        tied=_tied(plan, network, shapes),
        exchanges=any(shape.data_group is not None for shape in shapes),
    )


def _stage_times(
    plan: Plan, cost: CostModel, network: Network, stage: Stage, shape: StageShape
) -> StageTimes:
    devices = cost.topology.devices
    slots = {
        (devices[plan.rank_map[rank]].node.index, micro_of(plan, stage, rank)): rank
        for rank in stage.ranks
    }
    tp = stage.layout.tp
    step: Time = 0.0
    if stage.stage < plan.pp:  # one step for all stages of a rank
        for rank in slots.values():
            owned = owned_elements(plan, rank)
            step = max(step, cost.optimizer_seconds(owned, devices[plan.rank_map[rank]]))
    buckets = shape.buckets or (Bucket(0, stage.blocks, 0),)
    parts = []
    for bucket in buckets:
        each = [cost.stage_time(plan, stage, bucket.blocks, rank) for rank in slots.values()]
        parts.append(
            PartTimes(
                gather=exchange_seconds(plan, network, shape, Op.ALL_GATHER, bucket),
                forward=max(time.forward for time in each),
                backward=max(time.backward for time in each),
                reduce=exchange_seconds(plan, network, shape, Op.REDUCE_SCATTER, bucket),
                tied=bucket.tied,
                weight=max(
                    cost.weight_seconds(
                        bucket.blocks,
                        devices[plan.rank_map[rank]],
                        micro_of(plan, stage, rank),
                        tp,
                    )
                    for rank in slots.values()
                ),
            )
        )
    return StageTimes(tuple(parts), step)


def _tied(plan: Plan, network: Network, shapes: Sequence[StageShape]) -> float:
    """The sum of the shared weight over its two stages, in all replicas at once."""
    holders = [shape for shape in shapes if shape.tied_group]
    if len(holders) < 2:
        return 0.0
    bucket = next(bucket for bucket in holders[0].buckets if bucket.tied)
    bytes_ = (bucket.tied_elements or bucket.elements) * plan.workload.gradient_bytes
    members: dict[str, list[int]] = {}
    for shape in holders:
        for name, rank in zip(shape.tied_group, shape.ranks, strict=True):
            members.setdefault(name, []).append(rank)
    together = [
        network.collective(Op.ALL_REDUCE, ends, bytes_, fabric_of(plan, name))
        for name, ends in members.items()
    ]
    return network.together(together).seconds
