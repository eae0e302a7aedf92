"""Payload of every group per step in closed form, where no instruction lists are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from holmes.plan.plan import Group, Plan
from holmes.plan.program import LOSS_SLOTS, schedule_of, stage_shape
from holmes.planner.groups import INSIDE_BLOCKS
from holmes.schedule.instruction import Bucket, Exchange, Move, Op, StageShape
from holmes.schedule.lower import WORLD_GROUP
from holmes.schedule.portions import gather_counts

NORM_BYTES = 8


def with_closed_bytes(groups: Sequence[Group], plan: Plan) -> tuple[Group, ...]:
    """The groups with the bytes that :func:`holmes.planner.groups.with_bytes` reads off the
    instruction lists; a test compares the two."""
    sent: Counter[str] = Counter()
    size = {group.name: len(group.ranks) for group in groups}
    shapes = [stage_shape(plan, stage) for stage in plan.stages]
    first = {group.name: group.ranks[0] for group in groups if group.axis == "data"}
    leading = set(first.values())
    gathers = _gathers(plan, shapes)
    for shape in shapes:
        for rank, exchange in zip(shape.ranks, shape.exchanges, strict=False):
            if rank not in leading:
                continue
            for bucket in shape.buckets:
                gathered = gathers[shape.stage % plan.pp][bucket.index]
                for one, elements in exchange.of(bucket):
                    for move, times in _moves(one, bucket, gathered, plan.schedule.microbatches):
                        if first.get(move.group) == rank:
                            rounds = (2 if move.op is Op.ALL_REDUCE else 1) * times
                            each = (size[move.group] - 1) * move.bytes_of(elements)
                            sent[move.group] += rounds * each
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
        if group.axis in INSIDE_BLOCKS:
            sent[group.name] = INSIDE_BLOCKS[group.axis](group, plan)
    return tuple(replace(group, bytes_per_step=sent[group.name]) for group in groups)


def _gathers(plan: Plan, shapes: Sequence[StageShape]) -> list[Counter[int]]:
    """By pipeline rank, how often a step gathers the weights of each bucket."""
    found = []
    for rank in range(plan.pp):
        own = {shape.stage: shape for shape in shapes[rank :: plan.pp]}
        exchanges = {s: shape.exchanges[0] for s, shape in own.items() if shape.exchanges}
        if any(exchange.gather is not None for exchange in exchanges.values()):
            found.append(gather_counts(schedule_of(plan).actions[rank], own, exchanges))
        else:
            found.append(Counter())
    return found


def _moves(
    exchange: Exchange, bucket: Bucket, gathered: int, microbatches: int
) -> Iterator[tuple[Move, int]]:
    """The collectives of a bucket, and how often a step has each."""
    if exchange.gather is not None:
        yield exchange.gather, gathered
    if exchange.reduce is not None:  # a shared weight's gradients are summed with its twin's first
        yield exchange.reduce, microbatches if exchange.each and not bucket.tied else 1
    if exchange.across is not None:
        yield exchange.across, 1
    for move in exchange.refresh:
        yield move, 1
