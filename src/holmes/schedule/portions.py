"""Portions: the computations of a rank, cut where buckets are gathered or reduced.

Weights that are sharded are whole for as long as neighbouring computations need them and no
longer: each part says which buckets it holds, and which of them the next one does not need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from holmes.schedule.instruction import (
    ACCUMULATING_OPS,
    Action,
    Bucket,
    Exchange,
    Op,
    StageShape,
)


@dataclass(frozen=True)
class Portion:
    """An action on some blocks of its stage.

    Attributes:
        buckets: those that the blocks are, in model order.
        holds: the buckets with sharded weights or gradients that it works on.
        gathers: those of them whose weights have to be gathered for it.
        frees: those whose weights the next part does not need.
    """

    action: Action
    blocks: tuple[int, int]
    buckets: tuple[Bucket, ...]
    holds: tuple[int, ...] = ()
    gathers: tuple[int, ...] = ()
    frees: tuple[int, ...] = ()


def portions_of(
    actions: tuple[Action, ...],
    shapes: Mapping[int, StageShape],
    exchanges: Mapping[int, Exchange | None],
    *,
    overlap: bool,
) -> list[list[Portion]]:
    """The parts of each action, in the order in which they run."""
    first = {(a.op, a.stage): i for i, a in reversed(list(enumerate(actions)))}
    last = {a.stage: i for i, a in enumerate(actions) if a.op in ACCUMULATING_OPS}
    found = []
    for i, action in enumerate(actions):
        exchange = exchanges[action.stage]
        edge = i == (
            first[Op.FORWARD, action.stage] if action.op is Op.FORWARD else last[action.stage]
        )
        found.append(_cut(action, shapes[action.stage], exchange, overlap=overlap, edge=edge))
    return _with_gathers(found, {s: e for s, e in exchanges.items() if e is not None and e.gather})


def gather_counts(
    actions: tuple[Action, ...],
    shapes: Mapping[int, StageShape],
    exchanges: Mapping[int, Exchange | None],
) -> Counter[int]:
    """How often the actions gather each bucket, as :func:`portions_of` has it.

    What an action needs gathered follows from the one before it, so each different pair of
    neighbours is cut once and counted as often as it occurs.
    """
    ways = [Action(action.op, action.stage, 0) for action in actions]
    found: Counter[int] = Counter()
    for (before, now), times in Counter(zip([None, *ways[:-1]], ways, strict=True)).items():
        held = () if before is None else _needs(before, shapes, exchanges)[-1]
        for needed in _needs(now, shapes, exchanges):
            for bucket in set(needed) - set(held):
                found[bucket] += times
            held = needed
    return found


def _needs(
    action: Action,
    shapes: Mapping[int, StageShape],
    exchanges: Mapping[int, Exchange | None],
) -> list[tuple[int, ...]]:
    """Buckets whose weights have to be whole, part by part of an action."""
    exchange = exchanges[action.stage]
    if exchange is None or exchange.gather is None:
        return [()]
    shape = shapes[action.stage]
    return [part.holds for part in _cut(action, shape, exchange, overlap=True, edge=False)]


def _cut(
    action: Action, shape: StageShape, exchange: Exchange | None, *, overlap: bool, edge: bool
) -> list[Portion]:
    accumulates = action.op in ACCUMULATING_OPS
    if exchange is None or not shape.buckets:
        return [Portion(action, shape.blocks, shape.buckets)]
    split = exchange.gather is not None
    if action.op is Op.FORWARD:
        split = split or (overlap and edge and bool(exchange.refresh))
    elif accumulates:
        split = split or (overlap and (edge or exchange.each))
    each = [(b.blocks, (b,)) for b in shape.buckets] if split else [(shape.blocks, shape.buckets)]
    if action.op is not Op.FORWARD:
        each.reverse()
    works = exchange.gather is not None or (exchange.each and accumulates)
    return [
        Portion(action, blocks, buckets, _held(buckets) if works else ())
        for blocks, buckets in each
    ]


def _held(buckets: tuple[Bucket, ...]) -> tuple[int, ...]:
    """Their own and those that they borrow a weight from, each once."""
    own = {bucket.index: None for bucket in buckets}
    borrowed = {b.borrows: None for b in buckets if b.borrows is not None}
    return tuple(own | borrowed)


def _with_gathers(
    found: list[list[Portion]], sharded: Mapping[int, Exchange]
) -> list[list[Portion]]:
    flat = [part for parts in found for part in parts]
    needed = [part.holds if part.action.stage in sharded else () for part in flat]
    made = iter(
        [
            replace(
                part,
                gathers=tuple(b for b in mine if b not in before),
                frees=tuple(b for b in mine if b not in after),
            )
            for part, mine, before, after in zip(
                flat, needed, [(), *needed[:-1]], [*needed[1:], ()], strict=True
            )
        ]
    )
    return [[next(made) for _ in parts] for parts in found]
