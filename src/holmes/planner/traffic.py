"""Payload of every group per step in closed form, where no instruction lists are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from holmes.plan.plan import Group, Plan
from holmes.plan.program import LOSS_SLOTS, stage_shape
from holmes.planner.groups import INSIDE_BLOCKS
from holmes.schedule.instruction import Exchange, Move, Op
from holmes.schedule.lower import WORLD_GROUP

NORM_BYTES = 8


def with_closed_bytes(groups: Sequence[Group], plan: Plan) -> tuple[Group, ...]:
    """The groups with the bytes that :func:`holmes.planner.groups.with_bytes` reads off the
    instruction lists; a test compares the two."""
    sent: Counter[str] = Counter()
    size = {group.name: len(group.ranks) for group in groups}
    shapes = [stage_shape(plan, stage) for stage in plan.stages]
    first = {group.name: group.ranks[0] for group in groups if group.axis == "data"}
    for shape in shapes:
        for rank, exchange in zip(shape.ranks, shape.exchanges, strict=False):
            for one in exchange.parts:
                for move, times in _moves(plan, one):
                    if first.get(move.group) == rank:
                        rounds = (2 if move.op is Op.ALL_REDUCE else 1) * times
                        moved = (
                            count for b in shape.buckets for e, count in exchange.of(b) if e is one
                        )
                        each = sum(map(move.bytes_of, moved))
                        sent[move.group] += rounds * (size[move.group] - 1) * each
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


def _moves(plan: Plan, exchange: Exchange) -> Iterator[tuple[Move, int]]:
    """The collectives of a bucket, and how often a step has each.

    Weights are gathered for every forward and every backward; that some buckets stay whole
    between the two is left out.
    """
    microbatches = plan.schedule.microbatches
    if exchange.gather is not None:
        yield exchange.gather, 2 * microbatches
    if exchange.reduce is not None:
        yield exchange.reduce, microbatches if exchange.each else 1
    if exchange.across is not None:
        yield exchange.across, 1
    for move in exchange.refresh:
        yield move, 1
