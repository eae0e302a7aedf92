"""Payload of every group per step in closed form, where no instruction lists are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from holmes.cost.axes import gathers
from holmes.plan.plan import Group, Plan
from holmes.plan.program import LOSS_SLOTS, stage_shape
from holmes.planner.groups import context_bytes, tensor_bytes
from holmes.schedule.instruction import StageShape
from holmes.schedule.lower import WORLD_GROUP

NORM_BYTES = 8


def with_closed_bytes(groups: Sequence[Group], plan: Plan) -> tuple[Group, ...]:
    """The groups with the bytes that :func:`holmes.planner.groups.with_bytes` reads off the
    instruction lists; a test compares the two."""
    sent: Counter[str] = Counter()
    size = {group.name: len(group.ranks) for group in groups}
    shapes = [stage_shape(plan, stage) for stage in plan.stages]
    data = {group.ranks: group.name for group in groups if group.axis == "data"}
    for shape in shapes:
        tp = plan.stages[shape.stage].layout.tp
        for tensor in range(tp):
            name = data.get(shape.ranks[tensor::tp])
            if name is not None:
                sent[name] += (size[name] - 1) * _exchanged(plan, shape)
    for part in (part for shape in shapes for parts in shape.outputs for part in parts):
        sent[part.group] += 2 * plan.schedule.microbatches * part.bytes_
    for shape in shapes:
        for bucket in shape.buckets:
            if bucket.tied and shape.stage == 0:
                bytes_ = (bucket.tied_elements or bucket.elements) * plan.workload.gradient_bytes
                for name in dict.fromkeys(shape.tied_group):
                    sent[name] += 2 * (size[name] - 1) * bytes_
    if WORLD_GROUP in size:
        norms = NORM_BYTES * (sum(block.tensors for block in plan.workload.blocks) + LOSS_SLOTS)
        sent[WORLD_GROUP] = 2 * (size[WORLD_GROUP] - 1) * norms
    for group in groups:
        if group.axis == "tensor":
            sent[group.name] = tensor_bytes(group, plan)
        elif group.axis == "context":
            sent[group.name] = context_bytes(group, plan)
    return tuple(replace(group, bytes_per_step=sent[group.name]) for group in groups)


def _exchanged(plan: Plan, shape: StageShape) -> int:
    """Payload of one data group: reductions and gathers of all buckets."""
    elements = sum(bucket.elements for bucket in shape.buckets)
    forwards, backwards = gathers(plan.sharding)
    gather, reduce = plan.workload.parameter_bytes, plan.workload.gradient_bytes
    if not backwards:
        return elements * (gather + reduce)
    microbatches = plan.schedule.microbatches
    repeated = (forwards + backwards - 1) * gather + reduce
    return elements * (microbatches * repeated + (0 if forwards else gather))
