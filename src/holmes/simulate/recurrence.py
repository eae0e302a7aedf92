"""The pipeline as a max-plus recurrence over stages and micro-batches.

Times may be floats, or numpy arrays of one shape that hold many candidates
at once (partitions to be ranked, say); the arithmetic is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from holmes.errors import ConfigError
from holmes.schedule.instruction import Action, Op, Schedule

Time: TypeAlias = Any
"""float, or an array of candidates."""


@dataclass(frozen=True)
class PartTimes:
    """One bucket of a stage, seconds: its gather, its share of a forward and backward, its
    reduction. ``tied`` marks a bucket that is first summed with its twin."""

    gather: Time
    forward: Time
    backward: Time
    reduce: Time
    tied: bool = False


@dataclass(frozen=True)
class StageTimes:
    """One stage: its buckets in model order, and its optimiser step."""

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

    ``down[c]`` and ``up[c]`` are the transfers over the cut after stage c;
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
    count = schedule.stages
    if len(times.stages) != count or len(times.down) != count - 1 or len(times.up) != count - 1:
        raise ConfigError(f"times of {len(times.stages)} stages for a schedule of {count}")
    arrays = any(isinstance(part.forward, np.ndarray) for s in times.stages for part in s.parts)
    arrays = arrays or any(isinstance(t, np.ndarray) for t in (*times.down, *times.up))
    later: Callable[[Time, Time], Time] = np.maximum if arrays else max
    walks = [_Walk(schedule, times, stage, overlap, later) for stage in range(count)]
    going = True
    while going:
        going = False
        for walk in walks:
            going = walk.advance(walks) or going
    ended = [Ended(walk.own.parts[::-1], walk.own.step, walk.now, walk.data_free) for walk in walks]
    return finish_seconds(ended, times, overlap, later)


class _Walk:
    """The main thread of one stage."""

    def __init__(
        self,
        schedule: Schedule,
        times: PipelineTimes,
        stage: int,
        overlap: bool,
        later: Callable[[Time, Time], Time],
    ) -> None:
        self.actions: tuple[Action, ...] = schedule.actions[stage]
        self.ahead = 2 * (1 + max(schedule.extra_warmup, default=0))
        self.stage = stage
        self.times = times
        self.own = times.stages[stage]
        self.split = overlap and times.exchanges
        self.later = later
        self.forwards, self.backwards = self.own.forward, self.own.backward
        self.now: Time = 0.0
        self.index = 0
        self.posted = 0
        self.posted_at: dict[tuple[Op, int], Time] = {}
        self.sent: dict[tuple[Op, int], Time] = {}
        self.lane_free: dict[Op, Time] = {Op.FORWARD: 0.0, Op.BACKWARD: 0.0}
        self.data_free: Time = 0.0
        self.last = {action.op: i for i, action in enumerate(self.actions)}

    def advance(self, walks: Sequence[_Walk]) -> bool:
        """Run actions until one waits for a neighbour; says whether any ran."""
        before = self.index
        while self.index < len(self.actions):
            for action in self.actions[self.posted : self.index + 1 + self.ahead]:
                self.posted_at[action.op, action.microbatch] = self.now
            self.posted = max(self.posted, self.index + 1 + self.ahead)
            action = self.actions[self.index]
            if not self._run(action, walks):
                break
            self.index += 1
        return self.index > before

    def _run(self, action: Action, walks: Sequence[_Walk]) -> bool:
        down = action.op is Op.FORWARD
        feeder = self.stage - 1 if down else self.stage + 1
        if 0 <= feeder < len(walks):
            ready = walks[feeder].sent.get((action.op, action.microbatch))
            if ready is None:
                return False
            self.now = self.later(self.now, self._arrival(action, ready))
        if down:
            self._forward(first=self.index == 0)
        else:
            self._backward(last=self.index == self.last[Op.BACKWARD])
        self.sent[action.op, action.microbatch] = self.now
        return True

    def _arrival(self, action: Action, ready: Time) -> Time:
        posted = self.posted_at[action.op, action.microbatch]
        down = action.op is Op.FORWARD
        seconds = self.times.down[self.stage - 1] if down else self.times.up[self.stage]
        start = self.later(self.later(self.lane_free[action.op], ready), posted)
        self.lane_free[action.op] = start + seconds
        return start + seconds

    def _forward(self, *, first: bool) -> None:
        if not (first and self.split):
            self.now = self.now + self.forwards
            return
        for part in self.own.parts:
            self.data_free = self.data_free + part.gather
            self.now = self.later(self.now, self.data_free) + part.forward

    def _backward(self, *, last: bool) -> None:
        if not (last and self.split):
            self.now = self.now + self.backwards
            return
        for part in reversed(self.own.parts):
            self.now = self.now + part.backward
            if not part.tied:
                self.data_free = self.later(self.data_free, self.now) + part.reduce


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
