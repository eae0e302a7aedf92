"""Seconds and bytes of every choice of one layout on one rank map, as arrays.

A step takes::

    m P + fill + 2 sum_c d_c + max_s (e_s - drained_s)

with P the largest of the slowest stage, the slowest cut and the longest round
trip per micro-batch in flight, the fill as the
schedule leaves it, d_c the transfer over a cut, and e_s what nothing hides of a
stage's gradient exchange and optimiser. It is the partition's objective
(:mod:`holmes.planner.partition`) with cuts, for the best uneven partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holmes.cost.axes import filled_share
from holmes.cost.axes import in_flight as flight_of
from holmes.planner.candidates import Choice
from holmes.planner.ground import Ground
from holmes.planner.schedules import Looped, schedules_of
from holmes.planner.settings import Settings
from holmes.planner.survey.stages import Stages, Work
from holmes.planner.survey.tables import Floats, Tables
from holmes.planner.warmup import MOST, WORTH


@dataclass(frozen=True)
class Scores:
    """One schedule of one layout on one rank map; arrays by row of :class:`Stages`.

    Attributes:
        seconds, bytes_: of each choice; bytes of the fullest rank.
        fits: whether some partition fits in memory.
        counted: False where another choice is the same by symmetry.
    """

    stages: Stages
    looped: Looped
    seconds: Floats
    bytes_: Floats
    fits: NDArray[np.bool_]
    counted: NDArray[np.bool_]

    @property
    def ground(self) -> Ground:
        return self.stages.ground


@dataclass(frozen=True)
class Survey:
    """The survey of one request. ``norms``: seconds of the all-reduce of squared norms."""

    tables: Tables
    settings: Settings
    global_batch: int
    norms: float = 0.0

    def choices(self, ground: Ground, micros: tuple[int, ...]) -> int:
        """How many different choices a layout has; see :func:`_distinct`."""
        per_schedule = len(self.tables.recomputes)
        per_schedule *= len(self.settings.sequences) if ground.layout.tp > 1 else 1
        per_schedule *= len(self.tables.shardings) if ground.replicas > 1 else 1
        return sum(len(self._schedules(ground, micro)) * per_schedule for micro in micros)

    def shortage(self, ground: Ground, micros: tuple[int, ...]) -> float:
        """Bytes that the lightest choice lacks on all stages together; 0 when it may fit.

        The lightest: the least micro-batch, one in flight, and the least of every
        term over recomputations, shardings and sequence parallelism.
        """
        stages = self._stages(ground, micros[:1])
        bases, slopes = stages.memory(np.ones((len(stages.micro), stages.count)))
        base, slope = bases.min(axis=0), slopes.min(axis=0)
        room = stages.room - base
        if stages.count == 1:
            return max(0.0, -float(room[0]))
        least = float(np.sum(np.maximum(stages.floor * slope - room, 0.0)))
        most = np.clip(np.floor(room / slope), 0.0, float(self.tables.layers))
        lacking = self.tables.layers - float(most.sum())
        return max(least, lacking * float(slope.max()), 0.0)

    def scores(self, ground: Ground, micros: tuple[int, ...]) -> Iterator[Scores]:
        """Time and memory of every choice, schedule by schedule."""
        stages = self._stages(ground, micros)
        each_micro = [self._schedules(ground, micro) for micro in micros]
        distinct = _distinct(stages)
        for looped in dict.fromkeys(name for names in each_micro for name in names):
            use = np.array([looped in names for names in each_micro])
            rows = np.repeat(use, len(stages.micro) // len(micros))
            yield _score(self, stages, looped, rows & distinct)

    def _stages(self, ground: Ground, micros: tuple[int, ...]) -> Stages:
        return Stages(self.tables, ground, micros, self.global_batch, self.settings.overlap)

    def _schedules(self, ground: Ground, micro: int) -> list[Looped]:
        layout = ground.layout
        microbatches = self.global_batch // (micro * layout.dp)
        return schedules_of(self.settings, layout.pp, microbatches, self.tables.layers)


def _score(survey: Survey, stages: Stages, looped: Looped, counted: NDArray[np.bool_]) -> Scores:
    """One schedule of one layout, with the warm-up of the closed rule where it fits."""
    plain = _flight(stages, looped)
    found = _held(survey, stages, looped, counted, plain)
    extras = _extras(survey, stages) if looped[0] == "1f1b" and stages.count > 1 else None
    if extras is None or not extras.any():
        return found
    flight = np.minimum(plain + extras, stages.microbatches[:, None])
    warm = _held(survey, stages, looped, counted, flight)
    better = warm.fits & (~found.fits | (warm.seconds < found.seconds))
    return Scores(
        stages=stages,
        looped=looped,
        seconds=np.where(better, warm.seconds, found.seconds),
        bytes_=np.where(better, warm.bytes_, found.bytes_),
        fits=found.fits | warm.fits,
        counted=counted,
    )


def _held(
    survey: Survey,
    stages: Stages,
    looped: Looped,
    counted: NDArray[np.bool_],
    flight: Floats,
) -> Scores:
    """Scores with so many micro-batches in flight, [row, stage]."""
    base, slope = stages.memory(np.ceil(flight))
    layers = float(survey.tables.layers)
    most = np.clip(np.floor((stages.room - base) / slope), -1.0, layers)
    fits = counted & (most.sum(axis=1) >= layers) & np.all(most >= stages.floor, axis=1)
    work = stages.free
    # Memory moves borders only where the free partition does not fit.
    short = fits & np.any(np.ceil(work.blocks - 1e-9) > most, axis=1)
    if short.any():
        work = work.put(short, stages.work(short, most[short]))
    return Scores(
        stages=stages,
        looped=looped,
        seconds=_seconds(survey, stages, looped, work, flight),
        bytes_=np.max(base + slope * work.blocks, axis=1),
        fits=fits,
        counted=counted,
    )


def _flight(stages: Stages, looped: Looped) -> Floats:
    """Micro-batches between forward and backward without extra warm-up, [row, stage]."""
    schedule, virtual = looped
    step = len(stages.micro) // len(stages.micros)
    each = [
        [
            flight_of(schedule, stage, stages.count, int(microbatches), virtual)
            for stage in range(stages.count)
        ]
        for microbatches in stages.microbatches[::step]
    ]
    return np.repeat(np.array(each, dtype=float), step, axis=0)


def _extras(survey: Survey, stages: Stages) -> Floats:
    """Extra micro-batches in flight by the rule of :mod:`holmes.planner.warmup`, [row, stage]."""
    fixed = survey.settings.extra_warmup
    work = stages.free
    if fixed is not None:
        each = np.full((len(stages.micro), stages.count - 1), float(fixed))
    else:
        typical = (work.forward + work.backward).mean(axis=1, keepdims=True)
        round_trip = 2.0 * stages.cuts
        each = np.ceil(round_trip / typical)
        most = np.clip(stages.microbatches - 1, 0, MOST)[:, None]
        each = np.where(round_trip < WORTH * typical, 0.0, np.minimum(each, most))
    below = np.cumsum(each[:, ::-1], axis=1)[:, ::-1]
    return np.concatenate([below, np.zeros((len(below), 1))], axis=1)


def _seconds(survey: Survey, stages: Stages, looped: Looped, work: Work, flight: Floats) -> Floats:
    """The formula of the module."""
    schedule, virtual = looped
    slowest = work.slowest
    share = filled_share(schedule, virtual)
    whole = work.forward + work.backward
    fill = whole.sum(axis=1) - slowest
    if schedule == "zero-bubble":
        plain = work.backward - stages.full_recompute * work.forward
        weights = np.minimum(work.forward, plain / 2)[:, 1:].sum(axis=1)
        fill = np.maximum(0.0, fill - weights)
    period = slowest
    crossed: Floats | float = 0.0
    if stages.count > 1:
        crossed = 2.0 * stages.cuts.sum(axis=1)
        looped_cuts = np.maximum(virtual * stages.cuts.max(axis=1), (virtual - 1) * stages.wrap)
        period = np.maximum(slowest, looped_cuts)
        if schedule not in ("gpipe", "looped-bfs"):
            turns = flight if schedule == "1f1b" else _flight(stages, ("1f1b", 1))
            period = np.maximum(period, _round_trips(stages, whole, turns))
    tail = _tail(survey, stages, work, share)
    found: Floats = stages.microbatches * period + share * fill + crossed + tail
    return found + survey.norms


def _round_trips(stages: Stages, whole: Floats, flight: Floats) -> Floats:
    """Seconds a micro-batch for which 1F1B waits on its round trips, [row].

    A stage with n micro-batches in flight starts the next when the first of them has
    been down to the last stage and back.
    """
    trips = np.cumsum(whole[:, ::-1], axis=1)[:, ::-1].copy()
    trips[:, :-1] += 2.0 * np.cumsum(stages.cuts[:, ::-1], axis=1)[:, ::-1]
    waiting = flight < stages.microbatches[:, None]
    found: Floats = np.max(np.where(waiting, trips / flight, 0.0), axis=1)
    return found


def _tail(survey: Survey, stages: Stages, work: Work, share: float) -> Floats:
    """What stands after the last backward of stage 0, [row]."""
    ground, workload = stages.ground, survey.tables.cost.workload
    drained = np.cumsum(work.backward, axis=1) - work.backward
    tail: Floats = np.max(work.exposed - share * drained, axis=1)
    if workload.tied is not None and stages.count > 1:
        bytes_ = workload.tied_parameters * workload.gradient_bytes
        summed = ground.wrap.seconds(bytes_ / ground.layout.tp, 2)
        if ground.replicas > 1:
            ends = ground.exchanges[0], ground.exchanges[-1]
            summed += max(end.seconds(bytes_, 1) for end in ends)
        tail = np.maximum(tail, summed + work.steps.max(axis=1))
    return np.maximum(tail, 0.0)


def _distinct(stages: Stages) -> NDArray[np.bool_]:
    """False where a choice changes nothing: sequence parallelism without tensor ranks,
    sharding without replicas. [row]"""
    found = np.ones(stages.shape, dtype=bool)
    sequences = stages.tables.sequences
    if stages.ground.layout.tp == 1 and len(sequences) > 1:
        found[:, :, [i for i, on in enumerate(sequences) if on]] = False
    if stages.ground.replicas == 1:
        found[..., 1:] = False
    return found.reshape(-1)


def choice_at(scores: Scores, row: int) -> tuple[int, Choice]:
    """(micro-batch, choice) of a row."""
    stages, tables = scores.stages, scores.stages.tables
    m, r, s, z = (int(i) for i in np.unravel_index(row, stages.shape))
    schedule, virtual = scores.looped
    return stages.micros[m], Choice(
        recompute=tables.recomputes[r],
        sharding=tables.shardings[z],
        schedule=schedule,
        virtual_stages=virtual,
        sequence=tables.sequences[s],
    )
