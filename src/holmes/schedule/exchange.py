"""The exchanges of one rank among its replicas, as instructions between its computations.

* Weights that are sharded are gathered before each computation that needs them: with
  overlap while the one before it runs, so that at most two buckets are on their way or in use.
* Gradients are reduced behind the backward of their bucket, after the last micro-batch or
  after each. The next micro-batch adds to a bucket only when its reduction is over.
* Sums of several groups are added up after the last micro-batch, and what the optimiser
  changed is brought up to date before the next step.
* Without overlap the computing thread waits for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from holmes.schedule.instruction import (
    ACCUMULATING_OPS,
    Bucket,
    Exchange,
    Move,
    Op,
    StageShape,
)
from holmes.schedule.portions import Portion


class Add(Protocol):
    """Appends an instruction to the rank's list and returns its id."""

    def __call__(
        self, op: Op, lane: str, stage: int, blocks: tuple[int, int], **rest: object
    ) -> int: ...


class Exchanges:
    """Lists the exchanges of one rank.

    Args:
        shapes, exchanges: by virtual stage of the rank.

    ``reduced`` are the instructions after which the gradients are complete.
    """

    def __init__(
        self,
        add: Add,
        shapes: Mapping[int, StageShape],
        exchanges: Mapping[int, Exchange | None],
        *,
        overlap: bool,
    ) -> None:
        self._add = add
        self._shapes, self._exchanges = shapes, exchanges
        self._overlap = overlap
        self._fresh: dict[int, int] = {}
        self._gathered: dict[int, int] = {}
        self._last_reduction: dict[int, int] = {}
        self._held_up: tuple[int, ...] = ()
        self.reduced: list[int] = []

    def refresh(self, waits: tuple[int, ...]) -> None:
        """Bring what is kept of every bucket's weights up to date, in model order."""
        for shape in self._shapes.values():
            exchange = self._exchanges[shape.stage]
            if exchange is None:
                continue
            for bucket in shape.buckets:
                after = waits
                for part, elements in exchange.of(bucket):
                    for move in part.refresh:
                        kind = "parameters" if move is part.refresh[-1] else "part"
                        size = (bucket, elements)
                        after = (self._move(move, shape.stage, size, kind, after),)
                        self._fresh[bucket.index] = after[0]

    def gather(self, part: Portion) -> None:
        """Gather the weights that a part needs, where that is not under way."""
        exchange = self._exchanges[part.action.stage]
        if exchange is None or exchange.gather is None:
            return
        action = part.action
        for index in part.gathers:
            if index in self._gathered:
                continue
            fresh = self._fresh.pop(index, None)
            after: tuple[int, ...] = () if fresh is None else (fresh,)
            bucket = self._bucket(action.stage, index)
            kind = f"weights.{action.op[0]}{action.microbatch}"
            for one, elements in exchange.of(bucket):
                if one.gather is not None:
                    after = (self._move(one.gather, action.stage, (bucket, elements), kind, after),)
            self._gathered[index] = after[0]

    def waits(self, part: Portion) -> tuple[int, ...]:
        """What a part has to wait for; counts as done from here on."""
        found = list(self._held_up)
        self._held_up = ()
        for index in part.gathers:
            if index in self._gathered:
                found.append(self._gathered.pop(index))
        for bucket in part.buckets:
            if not part.holds and bucket.index in self._fresh:
                found.append(self._fresh.pop(bucket.index))
        if part.action.op in ACCUMULATING_OPS:
            found += [self._last_reduction[b] for b in part.holds if b in self._last_reduction]
        return tuple(dict.fromkeys(found))

    def reduce(self, part: Portion, done: int, *, last: bool) -> None:
        """Reduce the buckets of a part of a backward that ended.

        Args:
            last: no later micro-batch adds to them.
        """
        stage = part.action.stage
        exchange = self._exchanges[stage]
        if exchange is None or part.action.op not in ACCUMULATING_OPS:
            return
        for bucket in reversed(part.buckets):
            if bucket.tied or not (exchange.each or (last and self._overlap)):
                continue
            self._reduce(stage, bucket, (done,), part.action.microbatch, last=last)

    def finish(self, stage: int, bucket: Bucket, waits: tuple[int, ...]) -> None:
        """Reduce a bucket after the last micro-batch, unless that is done."""
        exchange = self._exchanges[stage]
        if exchange is None:
            return
        if bucket.tied or not (exchange.each or self._overlap):
            self._reduce(stage, bucket, waits, None, last=True)

    def _reduce(
        self,
        stage: int,
        bucket: Bucket,
        waits: tuple[int, ...],
        microbatch: int | None,
        *,
        last: bool,
    ) -> None:
        exchange = self._exchanges[stage]
        assert exchange is not None
        done = waits
        each = exchange.each and microbatch is not None
        kind = f"gradients.m{microbatch}" if each else "gradients"
        for one, elements in exchange.of(bucket):
            size = (bucket, elements)
            if one.reduce is not None:
                done = (self._move(one.reduce, stage, size, kind, done),)
                self._last_reduction[bucket.index] = done[0]
            if last and one.across is not None:
                done = (self._move(one.across, stage, size, "sums", done),)
        if last:
            self.reduced += done
        if not self._overlap:
            self._held_up += done

    def _bucket(self, stage: int, index: int) -> Bucket:
        return next(b for b in self._shapes[stage].buckets if b.index == index)

    def _move(
        self, move: Move, stage: int, size: tuple[Bucket, int], kind: str, waits: tuple[int, ...]
    ) -> int:
        """A collective of a bucket, of so many elements of it."""
        bucket, elements = size
        return self._add(
            move.op,
            f"comm:{move.group}",
            stage,
            bucket.blocks,
            microbatch=None,
            group=move.group,
            buffer=f"{kind}.{bucket.index}",
            bytes=move.bytes_of(elements),
            waits=waits,
        )
