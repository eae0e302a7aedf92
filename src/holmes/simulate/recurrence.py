"""The pipeline as a max-plus recurrence over (virtual) stages and micro-batches.

Times may be floats, or numpy arrays of one shape that hold many candidates
at once (partitions to be ranked, say); the arithmetic is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from holmes.errors import ConfigError
from holmes.schedule.instruction import ACCUMULATING_OPS, Action, Op, Schedule

Time: TypeAlias = Any
"""float, or an array of candidates."""


@dataclass(frozen=True)
class PartTimes:
    """One bucket of a stage, seconds: its gather, its share of a forward and backward, its
    reduction. ``weight`` is the part of the backward that the weights' gradients take,
    ``tied`` marks a bucket that is first summed with its twin."""

    gather: Time
    forward: Time
    backward: Time
    reduce: Time
    tied: bool = False
    weight: Time = 0.0

    def gradient(self, op: Op) -> Time:
        """Seconds of a backward, or of one of its parts."""
        if op is Op.WEIGHT_GRADIENT:
            return self.weight
        return self.backward - self.weight if op is Op.INPUT_GRADIENT else self.backward


@dataclass(frozen=True)
class StageTimes:
    """One virtual stage: its buckets in model order, and its optimiser step (with several
    stages on a rank, the whole rank's stands at one of them)."""

    parts: tuple[PartTimes, ...]
    step: Time = 0.0

    @property
    def forward(self) -> Time:
        """Seconds of one forward."""
        return sum(part.forward for part in self.parts)

    @property
    def backward(self) -> Time:
        """Seconds of one backward."""
        return sum(part.backward for part in self.parts)


@dataclass(frozen=True)
class PipelineTimes:
    """All that the recurrence needs, seconds.

    Stages are virtual ones. ``down[c]`` and ``up[c]`` are the transfers over the cut
    after stage c;
    ``norms`` the world's all-reduce, ``tied`` the sum of the shared weight.
    ``exchanges`` is false where there are no replicas, so nothing to reduce.
    """

    stages: tuple[StageTimes, ...]
    down: tuple[Time, ...]
    up: tuple[Time, ...]
    norms: Time = 0.0
    tied: Time = 0.0
    exchanges: bool = True


def pipeline_seconds(schedule: Schedule, times: PipelineTimes, *, overlap: bool) -> Time:
    """Seconds of one step with no contention between cuts and groups.

    Mirrors :func:`holmes.schedule.lower.lower`: receives are posted ahead, a cut
    direction carries one transfer at a time and needs both ends, reductions and
    gathers run under the last backward and the first forward when ``overlap``.

    Raises:
        ConfigError: the times are not of this schedule's stages.
    """
    count = schedule.stages * schedule.virtual_stages
    if len(times.stages) != count or len(times.down) != count - 1 or len(times.up) != count - 1:
        raise ConfigError(f"times of {len(times.stages)} stages for a schedule of {count}")
    arrays = any(isinstance(part.forward, np.ndarray) for s in times.stages for part in s.parts)
    arrays = arrays or any(isinstance(t, np.ndarray) for t in (*times.down, *times.up))
    later: Callable[[Time, Time], Time] = np.maximum if arrays else max
    board = _Board(schedule, times)
    walks = [_Walk(schedule, times, board, rank, overlap, later) for rank in range(schedule.stages)]
    going = True
    while going:
        going = False
        for walk in walks:
            going = walk.advance() or going
    return finish_seconds([walk.ended() for walk in walks], times, overlap, later)


class _Board:
    """When each stage has sent each micro-batch on, by direction (down is True), stage and
    micro-batch; None before. ``feeds`` is what arrives at a stage, None at the chain's ends."""

    def __init__(self, schedule: Schedule, times: PipelineTimes) -> None:
        count = len(times.stages)
        self.sent: dict[bool, list[list[Time | None]]] = {
            down: [[None] * schedule.microbatches for _ in range(count)] for down in (True, False)
        }
        self.feeds: dict[bool, list[tuple[list[Time | None], Time] | None]] = {
            True: [None, *zip(self.sent[True][:-1], times.down, strict=True)],
            False: [*zip(self.sent[False][1:], times.up, strict=True), None],
        }


class _Walk:
    """The main thread of one pipeline rank.

    Its receives come over one lane from the rank above and one from the rank below.
    """

    def __init__(
        self,
        schedule: Schedule,
        times: PipelineTimes,
        board: _Board,
        rank: int,
        overlap: bool,
        later: Callable[[Time, Time], Time],
    ) -> None:
        self.actions: tuple[Action, ...] = schedule.actions[rank]
        self.ahead = schedule.receive_ahead
        self.board = board
        self.own = {s: t for s, t in enumerate(times.stages) if s % schedule.stages == rank}
        self.later = later
        self.seconds = {
            (op, stage): seconds
            for stage, own in self.own.items()
            for op, seconds in _of_ops(own).items()
        }
        self.now: Time = 0.0
        self.begun: list[Time] = [0.0]
        """When each action was next; a receive is posted when the one ``ahead`` before is."""
        self.lane_free: dict[bool, Time] = {True: 0.0, False: 0.0}
        self.data_free: Time = 0.0
        self.edges: set[int] = set()
        """Actions that gathers or reductions run under: first forwards and last backwards."""
        if overlap and times.exchanges:
            self.edges.update(
                {a.stage: i for i, a in reversed(list(enumerate(self.actions)))}.values()
            )
            ends = {a.stage: i for i, a in enumerate(self.actions) if a.op in ACCUMULATING_OPS}
            self.edges.update(ends.values())

    def advance(self) -> bool:
        """Run actions until one waits for a neighbour; says whether any ran."""
        ran, later, begun = False, self.later, self.begun
        for index in range(len(begun) - 1, len(self.actions)):
            action = self.actions[index]
            op, stage, microbatch = action.op, action.stage, action.microbatch
            down = op is Op.FORWARD
            moves = op is not Op.WEIGHT_GRADIENT
            feed = self.board.feeds[down][stage] if moves else None
            if feed is not None:
                ready = feed[0][microbatch]
                if ready is None:
                    return ran
                start = later(later(self.lane_free[down], ready), begun[max(0, index - self.ahead)])
                self.lane_free[down] = start + feed[1]
                self.now = later(self.now, start + feed[1])
            if index in self.edges:
                self._edge(action)
            else:
                self.now = self.now + self.seconds[op, stage]
            if moves:
                self.board.sent[down][stage][microbatch] = self.now
            ran = True
            begun.append(self.now)
        return ran

    def _edge(self, action: Action) -> None:
        """A first forward after its gathers, or a last backward with its reductions."""
        parts = self.own[action.stage].parts
        if action.op is Op.FORWARD:
            for part in parts:
                self.data_free = self.data_free + part.gather
                self.now = self.later(self.now, self.data_free) + part.forward
            return
        for part in reversed(parts):
            self.now = self.now + part.gradient(action.op)
            if not part.tied:
                self.data_free = self.later(self.data_free, self.now) + part.reduce

    def ended(self) -> Ended:
        """Where the rank stands after its last action."""
        parts = tuple(part for own in self.own.values() for part in reversed(own.parts))
        step = sum(own.step for own in self.own.values())
        return Ended(parts, step, self.now, self.data_free)


def _of_ops(own: StageTimes) -> dict[Op, Time]:
    weight = sum(part.weight for part in own.parts)
    return {
        Op.FORWARD: own.forward,
        Op.BACKWARD: own.backward,
        Op.INPUT_GRADIENT: own.backward - weight,
        Op.WEIGHT_GRADIENT: weight,
    }


@dataclass(frozen=True)
class Ended:
    """A pipeline rank after its last action: its buckets in the order of their reductions
    and its step, when its main thread is free and when its reductions so far have ended."""

    parts: tuple[PartTimes, ...]
    step: Time
    now: Time
    data_free: Time


def finish_seconds(
    ranks: Sequence[Ended],
    times: PipelineTimes,
    overlap: bool,
    later: Callable[[Time, Time], Time],
) -> Time:
    """Leftover reductions, the norm, the step, and gathers that nothing hides."""
    summed: Time = 0.0
    for rank in ranks:
        if any(part.tied for part in rank.parts):
            summed = later(summed, rank.now + times.tied)
    ready: Time = 0.0
    for rank in ranks:
        free = rank.data_free
        for part in rank.parts:
            start = summed if part.tied else rank.now
            if times.exchanges and (part.tied or not overlap):
                free = later(free, start) + part.reduce
            elif part.tied:
                ready = later(ready, summed)
        ready = later(later(ready, free), rank.now)
    ready = ready + times.norms
    end: Time = ready
    for rank in ranks:
        done = ready + rank.step
        if times.exchanges and not overlap:
            done = done + sum(part.gather for part in rank.parts)
        end = later(end, done)
    return end
