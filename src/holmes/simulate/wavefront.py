"""The recurrence of schedules whose form has levels, without their action lists, many stages
at a time.

Every action gets a level above those of all it comes after, so the actions of a
level are one strided slice of per-stage arrays.

:mod:`holmes.simulate.recurrence` is the slow, obvious twin: same additions in the
same order, so the results are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holmes.errors import ConfigError
from holmes.schedule.form import Level
from holmes.schedule.generate import FORMS
from holmes.simulate.recurrence import (
    Ended,
    PartTimes,
    PipelineTimes,
    StageTimes,
    Time,
    finish_seconds,
)

FEWEST_STAGES = 8
"""Below this the twin is as fast."""


def wavefront_seconds(
    name: str,
    microbatches: int,
    extra_warmup: Sequence[int],
    times: PipelineTimes,
    *,
    overlap: bool,
) -> Time:
    """Seconds of one step, as :func:`holmes.simulate.recurrence.pipeline_seconds`.

    Args:
        microbatches: m, at least 1.
        extra_warmup: extra forwards in flight per cut, empty for none.
        times: floats, or arrays of candidates of one shape.

    Raises:
        ConfigError: the times are not of as many cuts as stages need, or the schedule has
            no levels.
    """
    cuts = len(times.stages) - 1
    extras = tuple(extra_warmup) or (0,) * cuts
    if not (len(extras) == len(times.down) == len(times.up) == cuts):
        raise ConfigError(f"times and warm-up of {cuts + 1} stages are not of {cuts} cuts")
    levels = FORMS[name].levels
    if levels is None:
        raise ConfigError(f"the actions of schedule {name} are not written down by levels")
    front = _Front(times, max(extras, default=0), overlap)
    for level in levels(cuts + 1, microbatches, extras):
        front.run(level)
    return finish_seconds(front.ended(), times, overlap, np.maximum if front.arrays else max)


class _Front:
    """Per-stage arrays. What flows into stage s from above stands at s, from below at s + 1."""

    def __init__(self, times: PipelineTimes, extra: int, overlap: bool) -> None:
        self.times = times
        self.split = overlap and times.exchanges
        self.count = len(times.stages)
        every = [[t for part in s.parts for t in _times(part)] for s in times.stages]
        shape = np.broadcast_shapes(
            *(np.shape(t) for t in (*times.down, *times.up, *(t for own in every for t in own)))
        )
        self.seconds = {
            True: _stacked([stage.forward for stage in times.stages], shape),
            False: _stacked([stage.backward for stage in times.stages], shape),
        }
        self.transfer = {
            True: _stacked([0.0, *times.down], shape),
            False: _stacked([*times.up, 0.0], shape),
        }
        self.arrays = bool(shape)
        self.stage = np.arange(self.count)
        self.now = np.zeros((self.count, *shape))
        self.lane_free = {True: np.zeros_like(self.now), False: np.zeros_like(self.now)}
        # A receive is posted some actions ahead: the end of each of the last actions is kept.
        self.kept = 2 * (1 + extra) + 1
        self.past = np.zeros((self.kept * self.count, *shape))
        self.index = np.zeros(self.count, dtype=np.int64)
        # Backwards may be up to 1 + extra ahead of the stage above; forwards are never.
        self.depth = {True: 1, False: extra + 2}
        self.width = self.count + 1
        self.sent = {d: np.zeros((n * self.width, *shape)) for d, n in self.depth.items()}
        self.ran = {d: np.zeros(self.count, dtype=np.int64) for d in (True, False)}
        self.data_free: list[Time] = [0.0] * self.count

    def run(self, level: Level) -> None:
        """One action of every stage of the level."""
        down = level.down
        stages = slice(level.start, level.stop, level.step)
        stage = self.stage[stages]
        past = self.index[stages] % self.kept * self.count + stage
        turn = self.ran[down][stages] % self.depth[down] * self.width
        feeder, target = (stage, stage + 1) if down else (stage + 1, stage)
        arrival = np.maximum(self.lane_free[down][stages], self.sent[down][turn + feeder])
        arrival = np.maximum(arrival, self.past[past]) + self.transfer[down][stages]
        self.lane_free[down][stages] = arrival
        begin = np.maximum(self.now[stages], arrival)
        after = begin + self.seconds[down][stages]
        if self.split and level.edge is not None:
            at = (level.edge - level.start) // level.step
            run_parts = self._gather_and_run if down else self._run_and_reduce
            after[at] = run_parts(level.edge, begin[at])
        self.now[stages] = after
        self.past[past] = after
        self.sent[down][turn + target] = after
        self.index[stages] += 1
        self.ran[down][stages] += 1

    def _gather_and_run(self, stage: int, now: Time) -> Time:
        later = np.maximum if self.arrays else max
        for part in self.times.stages[stage].parts:
            self.data_free[stage] = self.data_free[stage] + part.gather
            now = later(now, self.data_free[stage]) + part.forward
        return now

    def _run_and_reduce(self, stage: int, now: Time) -> Time:
        later = np.maximum if self.arrays else max
        for part in reversed(self.times.stages[stage].parts):
            now = now + part.backward
            if not part.tied:
                self.data_free[stage] = later(self.data_free[stage], now) + part.reduce
        return now

    def ended(self) -> list[Ended]:
        """Where every stage stands after its last action."""
        stages: Sequence[StageTimes] = self.times.stages
        return [
            Ended(own.parts[::-1], own.step, self.now[s], self.data_free[s])
            for s, own in enumerate(stages)
        ]


def _times(part: PartTimes) -> tuple[Time, ...]:
    return part.gather, part.forward, part.backward, part.reduce


def _stacked(values: Sequence[Time], shape: tuple[int, ...]) -> np.ndarray:
    """Times of the stages along the first axis, candidates along the others."""
    return np.stack([np.broadcast_to(np.asarray(value, dtype=float), shape) for value in values])
