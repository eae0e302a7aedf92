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

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from holmes.cost.axes import Split, unfilled_seconds
from holmes.plan.layout import Layout
from holmes.planner.candidates import Choice
from holmes.planner.ground import Ground
from holmes.planner.round_trips import round_trips
from holmes.planner.schedules import Looped, schedules_of
from holmes.planner.settings import Settings
from holmes.planner.survey.stages import Stages
from holmes.planner.survey.tables import Floats, Tables
from holmes.planner.survey.work import Work
from holmes.planner.warmup import MOST, WORTH
from holmes.schedule.generate import FORMS, WITH_WARMUP


@dataclass(frozen=True)
class Scores:
    """Choices of one layout on one rank map.

    Attributes:
        places: of each scored choice, in the rows of :class:`Stages` once for each schedule
            in turn. Those are left out that are the same as another by symmetry, cannot
            be, or cannot be the best.
        seconds, bytes_: of each choice; bytes of the fullest rank. Seconds are infinite where
            memory alone ruled a choice out.
        fits: whether some partition fits in memory.
        left_out: choices that a bound on memory or compute ruled out.
    """

    stages: Stages
    schedules: tuple[Looped, ...]
    places: NDArray[np.int64]
    seconds: Floats
    bytes_: Floats
    fits: NDArray[np.bool_]
    left_out: int = 0

    @property
    def ground(self) -> Ground:
        return self.stages.ground

    def within(self, settings: Settings) -> Scores:
        """Those that narrower settings allow."""
        tables = self.stages.tables
        which, base = np.divmod(self.places, len(self.stages.micro))
        _, r, s, z = np.unravel_index(base, self.stages.shape)
        kept = np.ones(len(base), dtype=bool)
        for index, all_, allowed in (
            (r, tables.recomputes, settings.recomputes),
            (s, tables.sequences, settings.sequences),
            (z, tables.shardings, settings.shardings),
        ):
            kept &= np.array([one in allowed for one in all_])[index]
        looped = [
            name in settings.schedules and (v == 1 or v in settings.virtual_stages)
            for name, v in self.schedules
        ]
        kept &= np.array(looped)[which]
        return replace(
            self,
            places=self.places[kept],
            seconds=self.seconds[kept],
            bytes_=self.bytes_[kept],
            fits=self.fits[kept],
        )

    def choice(self, row: int) -> tuple[int, Choice]:
        """(micro-batch, choice) of a scored one."""
        tables = self.stages.tables
        which, base = divmod(int(self.places[row]), len(self.stages.micro))
        m, r, s, z = (int(i) for i in np.unravel_index(base, self.stages.shape))
        schedule, virtual = self.schedules[which]
        return self.stages.micros[m], Choice(
            recompute=tables.recomputes[r],
            sharding=tables.shardings[z],
            schedule=schedule,
            virtual_stages=virtual,
            sequence=tables.sequences[s],
        )


@dataclass(frozen=True)
class Survey:
    """The survey of one request. ``norms``: seconds of the all-reduce of squared norms."""

    tables: Tables
    settings: Settings
    global_batch: int
    norms: float = 0.0

    def choices(self, layout: Layout, micros: tuple[int, ...]) -> int:
        """How many different choices a layout has; see :func:`_distinct`."""
        per_schedule = len(self.tables.recomputes)
        per_schedule *= len(self.settings.sequences) if layout.tp > 1 else 1
        per_schedule *= len(self.tables.shardings) if layout.dp * layout.cp > 1 else 1
        return sum(len(self._schedules(layout, micro)) * per_schedule for micro in micros)

    def least_seconds(self, layout: Layout, micros: tuple[int, ...]) -> float:
        """No choice of a layout is faster: its blocks on the fastest devices, evenly divided."""
        tables, split = self.tables, Split(layout.cp, expert=layout.ep)
        each = [tables.block_times([slot], layout.tp, split, micros) for slot in tables.kinds]
        whole = np.min([times.forward + times.backward for times in each], axis=0)
        ends = np.min(
            [
                times.first_forward
                + times.first_backward
                + times.last_forward
                + times.last_backward
                for times in each
            ],
            axis=0,
        )
        microbatches = self.global_batch // (np.array(micros) * layout.dp)
        step = microbatches[:, None, None] * (tables.layers * whole + ends) / layout.pp
        return float(step.min())

    def shortage(self, stages: Stages) -> float:
        """Bytes that the lightest choice lacks on all stages together; 0 when it may fit.

        The lightest: the least of every term over micro-batches, recomputations,
        shardings and sequence parallelism, with as few in flight as any schedule has.
        """
        bases, slopes = stages.lightest
        base, slope = bases.min(axis=0), slopes.min(axis=0)
        room = stages.room - base
        if stages.count == 1:
            return max(0.0, float(stages.floor[0] * slope[0] - room[0]))
        least = float(np.sum(np.maximum(stages.floor * slope - room, 0.0)))
        most = np.clip(np.floor(room / slope), 0.0, float(self.tables.layers))
        lacking = self.tables.layers - float(most.sum())
        return max(least, lacking * float(slope.max()), 0.0)

    def bounds(self, stages: Stages) -> Floats:
        """Seconds that no choice of a row that fits is faster than: its compute, evenly
        divided; infinite where none fits."""
        fixed, slope = stages.lightest
        most = np.clip(np.floor((stages.room - fixed) / slope), -1.0, float(self.tables.layers))
        fits = most.sum(axis=1) >= self.tables.layers
        found: Floats = np.where(fits, stages.least_seconds, np.inf)
        return found

    def scores(self, stages: Stages, wanted: NDArray[np.bool_] | None = None) -> Scores:
        """Time and memory of every choice, or of those in the ``wanted`` rows."""
        ground, micros = stages.ground, stages.micros
        each_micro = [self._schedules(ground.layout, micro) for micro in micros]
        schedules = tuple(dict.fromkeys(name for names in each_micro for name in names))
        use = np.array([[name in names for names in each_micro] for name in schedules])
        counted = np.repeat(use, len(stages.micro) // len(micros), axis=1) & _distinct(stages)
        all_ = int(counted.sum())
        if wanted is not None:
            counted &= wanted
        places = np.flatnonzero(counted.reshape(-1))
        warm = [name in WITH_WARMUP for name, _ in schedules]
        extras = _extras(self, stages) if any(warm) and stages.count > 1 else np.zeros(0)
        rows = np.array(warm)[places // len(stages.micro)] if extras.any() else np.zeros(0, bool)
        again = np.flatnonzero(rows)
        tried = np.concatenate([places, places[again]])
        added = None
        if len(again):
            added = extras[tried % len(stages.micro)]
            added[: len(places)] = 0.0
        batch = _Batch.of(self, stages, schedules, tried, added)
        seconds, bytes_, fits = batch.scored(all_=wanted is None)
        best = np.arange(len(places))
        if len(again):
            other = len(places) + np.arange(len(again))
            better = fits[other] & (~fits[again] | (seconds[other] < seconds[again]))
            best[again] = np.where(better, other, again)
        chosen = seconds[best], bytes_[best], fits[best]
        return Scores(stages, schedules, places, *chosen, all_ - len(places))

    def stages(self, ground: Ground, micros: tuple[int, ...]) -> Stages:
        """The arrays of a layout on a rank map."""
        return Stages(self.tables, ground, micros, self.global_batch, self.settings)

    def _schedules(self, layout: Layout, micro: int) -> list[Looped]:
        microbatches = self.global_batch // (micro * layout.dp)
        blocks = self.tables.layers + 2
        return schedules_of(self.settings, layout.pp, microbatches, blocks)


@dataclass(frozen=True)
class _Batch:
    """Rows of several schedules; ``base`` says which row of the stages each one is.

    ``flight`` and ``turns`` are micro-batches in flight, for memory and for round trips,
    ``ends`` those at the ends of the chain, ``waiting`` those that wait for their weights'
    gradients [row, stage]; ``share`` the part of the fill that is left, ``virtual`` the
    virtual stages, ``trips`` whether round trips can stall, ``breadth`` whether all
    forwards come before any backward, ``splits`` whether weight gradients fill the
    bubble [row].
    """

    survey: Survey
    stages: Stages
    base: NDArray[np.int64]
    flight: Floats
    ends: Floats
    waiting: Floats | None
    turns: Floats
    share: Floats
    virtual: Floats
    trips: NDArray[np.bool_]
    breadth: NDArray[np.bool_]
    splits: NDArray[np.bool_]

    @staticmethod
    def of(
        survey: Survey,
        stages: Stages,
        schedules: tuple[Looped, ...],
        places: NDArray[np.int64],
        added: Floats | None = None,
    ) -> _Batch:
        """These choices (:attr:`Scores.places`), with extra warm-up [row, stage] where there
        is."""
        which, base = np.divmod(places, len(stages.micro))
        forms = [FORMS[name] for name, _ in schedules]
        most = stages.microbatches[base, None]
        flight = np.minimum(_unlimited(stages, schedules)[which], most)
        turns = stages.fewest[base]
        splits = np.array([form.splits_backward for form in forms])[which]
        waiting = None
        if added is not None:
            # Zero-bubble's input gradients run ahead by what the stages above hold more.
            held = np.where(splits[:, None], added[:, :1], added)
            flight, turns = np.minimum(flight + held, most), np.minimum(turns + added, most)
        if splits.any():
            ahead = 1.0 + np.arange(stages.count)
            if added is not None:
                ahead = ahead + added[:, :1] - added
            waiting = np.where(splits[:, None], np.minimum(ahead, most), 0.0)
            flight = np.maximum(flight - waiting, 0.0)

        # The last rank's head is on its last loop, whose backward follows at once.
        ends = flight.copy()
        loops = [form.loops and not form.breadth_first for form in forms]
        ends[np.array(loops)[which], -1] = 1.0
        return _Batch(
            survey,
            stages,
            base,
            flight,
            ends,
            waiting,
            turns,
            np.array([FORMS[name].filled_share(v) for name, v in schedules])[which],
            np.array([float(v) for _, v in schedules])[which],
            np.array([form.fixed is None for form in forms])[which],
            np.array([form.breadth_first for form in forms])[which],
            splits,
        )

    def scored(self, *, all_: bool) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """(seconds, bytes, fits) of every row.

        Args:
            all_: price also what does not fit; else its seconds are infinite.
        """
        stages, layers = self.stages, float(self.survey.tables.layers)
        fixed, slope = stages.memory(self.base, self.flight, self.waiting, self.ends)
        most = np.clip(np.floor((stages.room - fixed) / slope), -1.0, layers)
        fits = (most.sum(axis=1) >= layers) & np.all(most >= self._least_blocks, axis=1)
        bytes_ = np.max(fixed + slope * stages.free.blocks[self.base], axis=1)
        seconds = np.full(len(bytes_), np.inf)
        rows = np.arange(len(bytes_)) if all_ else np.flatnonzero(fits)
        if len(rows):
            part = self._rows(rows)
            work = stages.free.rows(part.base)
            # Memory moves borders only where the free partition does not fit.
            short = fits[rows] & np.any(np.ceil(work.blocks - 1e-9) > most[rows], axis=1)
            if short.any():
                moved = stages.work(part.base[short], most[rows[short]])
                work = work.put(short, moved)
                bytes_[rows[short]] = np.max(
                    fixed[rows[short]] + slope[rows[short]] * moved.blocks, axis=1
                )
            seconds[rows] = part._seconds(work)
        return seconds, bytes_, fits

    def _rows(self, index: NDArray[np.int64]) -> _Batch:
        """These rows alone."""
        return replace(
            self,
            base=self.base[index],
            flight=self.flight[index],
            ends=self.ends[index],
            waiting=None if self.waiting is None else self.waiting[index],
            turns=self.turns[index],
            share=self.share[index],
            virtual=self.virtual[index],
            trips=self.trips[index],
            breadth=self.breadth[index],
            splits=self.splits[index],
        )

    @property
    def _least_blocks(self) -> Floats:
        """Least transformer blocks of each rank: one a virtual stage, less the chain's ends."""
        stages = self.stages
        found: Floats = stages.floor + (self.virtual[:, None] - 1.0)
        return found

    def _seconds(self, work: Work) -> Floats:
        """The formula of the module."""
        stages, base = self.stages, self.base
        if self.splits.any():
            more = np.where(self.splits[:, None], stages.dividing(base, work.blocks), 0.0)
            work = work.longer_backward(more)
        whole = work.forward + work.backward
        fill = self.share * (whole.sum(axis=1) - work.slowest)
        trips, after = whole, np.zeros_like(whole)
        if self.splits.any():
            weights = np.where(self.splits[:, None], stages.weights(base, work.blocks), 0.0)
            left = unfilled_seconds(work.forward, work.backward, weights)[:, 1:].sum(axis=1)
            fill = np.where(self.splits, left, fill)
            trips, after = whole - weights, weights
        period: Floats = work.slowest
        crossed: Floats | float = 0.0
        if stages.count > 1:
            period, crossed = self._crossing(work, period)
            most = stages.microbatches[base]
            stalls = round_trips(trips, after, stages.cuts[base], self.turns, most)
            period = np.maximum(period, np.where(self.trips, stalls, 0.0))
        tail = self._tail(work)
        found: Floats = stages.microbatches[base] * period + fill + crossed + tail
        return found + self.survey.norms

    def _crossing(self, work: Work, period: Floats) -> tuple[Floats, Floats]:
        """(seconds a micro-batch as cuts allow, seconds a step of crossings), [row].

        One direction of a cut carries one transfer at a time. Where forwards and backwards
        take turns both directions are in use at once; else one after the other. Each loop
        through the ranks waits for its first micro-batch to come round: interleaved on
        every loop, breadth-first unless the others take as long.
        """
        stages, base, v = self.stages, self.base, self.virtual
        cuts, wrap = stages.cuts[base], stages.wrap[base]
        once = cuts.sum(axis=1)
        widest = np.maximum(cuts.max(axis=1), np.where(v > 1, wrap, 0.0))
        forward, backward = work.forward.max(axis=1), work.backward.max(axis=1)
        turns = np.maximum(period, v * widest)
        apart = np.maximum(forward, v * widest) + np.maximum(backward, v * widest)
        again, round_ = (v - 1) * (once + wrap), once + wrap
        m = stages.microbatches[base]
        waits = [
            np.maximum(
                0.0, whole.sum(axis=1) / v + round_ - m * np.maximum(whole.max(axis=1) / v, widest)
            )
            for whole in (work.forward, work.backward)
        ]
        looped = (v - 1) * (waits[0] + waits[1])
        turns = turns + np.where(v > 1, self._loop_stalls(work, turns), 0.0)
        # What each micro-batch waits for already is not waited for again in the fill.
        again = np.maximum(0.0, 2.0 * again - m * (turns - period))
        crossed = 2.0 * once + np.where(self.breadth, looped, again)
        return np.where(self.breadth, np.maximum(period, apart), turns), crossed

    def _loop_stalls(self, work: Work, period: Floats) -> Floats:
        """Seconds a micro-batch for which the interleaved schedule waits on top, [row].

        On its last loop rank r has n = 2 (p - 1 - r) + 1 units between a forward and its
        backward, so of every v p units it waits for ceil(p / n) round trips; on each loop
        p units until a micro-batch comes round. The first p micro-batches fill the pipeline.
        """
        stages, base, v = self.stages, self.base, self.virtual
        cuts, p = stages.cuts[base], stages.count
        whole = work.forward + work.backward
        trips = np.cumsum(whole[:, ::-1], axis=1)[:, ::-1][:, :-1]
        trips = trips + 2.0 * v[:, None] * np.cumsum(cuts[:, ::-1], axis=1)[:, ::-1]
        units = 2.0 * (p - 1 - np.arange(p - 1)) + 1.0
        round_ = v * (cuts.sum(axis=1) + stages.wrap[base])
        count = np.ceil(p / units)
        around = np.maximum(v[:, None] * p, count * units)
        rest = (around - count * units) * whole.max(axis=1, keepdims=True)
        slowest = np.max((count * trips + rest) / around, axis=1)
        for way in (work.forward, work.backward):
            slowest = np.maximum(slowest, (way.sum(axis=1) + round_) / p)
        full = np.maximum(0.0, 1.0 - p / stages.microbatches[base])
        found: Floats = np.maximum(0.0, slowest - period) * full
        return found

    def _tail(self, work: Work) -> Floats:
        """What stands after the last backward of stage 0, [row]."""
        ground, workload = self.stages.ground, self.survey.tables.cost.workload
        drained = np.cumsum(work.backward, axis=1) - work.backward
        exposed = work.exposed
        looped = self.virtual > 1
        if looped.any():
            # A loop's gradients are exchanged under the loops after it: of all micro-batches
            # breadth-first, else of as many as there are ranks.
            v = self.virtual[:, None]
            m = self.stages.microbatches[self.base]
            after = np.where(self.breadth, m, np.minimum(m, self.stages.count))[:, None]
            each = exposed - work.steps
            hidden = each - (1 - 1 / v) * after * (work.forward + work.backward)
            hidden = np.maximum(0.0 if self.stages.uneven else each / v, hidden)
            exposed = np.where(looped[:, None], work.steps + hidden, exposed)
        tail: Floats = np.max(exposed - self.share[:, None] * drained, axis=1)
        if workload.tied is not None and self.stages.count > 1:
            bytes_ = workload.tied_parameters * workload.gradient_bytes
            summed = ground.wrap.seconds(bytes_ / ground.layout.tp, 2)
            if ground.replicas > 1:
                ends = ground.exchanges[0], ground.exchanges[-1]
                summed += max(end.seconds(bytes_, 1) for end in ends)
            tail = np.maximum(tail, summed + work.steps.max(axis=1))
        return np.maximum(tail, 0.0)


def _unlimited(stages: Stages, schedules: Sequence[Looped]) -> Floats:
    """Micro-batches between forward and backward if there were any number of them and no
    extra warm-up, [schedule, stage]."""
    stage = np.arange(stages.count)
    each = [FORMS[name].in_flight(stage, stages.count, virtual) for name, virtual in schedules]
    return np.array(each, dtype=float)


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
