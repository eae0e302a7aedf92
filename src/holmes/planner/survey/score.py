"""Seconds and bytes of every choice of one layout on one rank map, as arrays.

The axes of all arrays are (micro-batch, recomputation, sequence, sharding), and
the pipeline stage where a value belongs to one. A step takes::

    m P + fill + 2 sum_c d_c + max_s (e_s - drained_s)

with P the larger of the slowest stage and the slowest cut, the fill as the
schedule leaves it, d_c the transfer over a cut, and e_s what nothing hides of a
stage's gradient exchange and optimiser. It is the partition's objective
(:mod:`holmes.planner.partition`) with cuts, for the best uneven partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holmes.cost.axes import BACKWARD_ROUNDS, KEYS_AND_VALUES, filled_share, gathers
from holmes.cost.axes import in_flight as flight_of
from holmes.planner.buckets import BUCKETS_PER_STAGE
from holmes.planner.candidates import Choice
from holmes.planner.ground import Ground
from holmes.planner.schedules import Looped, schedules_of
from holmes.planner.settings import Settings
from holmes.planner.survey.partition import blocks_within, least_bottleneck
from holmes.planner.survey.tables import BlockTimes, Floats, Tables

LEAST_SECONDS = 1e-12


@dataclass(frozen=True)
class Scores:
    """One schedule of one layout on one rank map.

    Attributes:
        seconds, bytes_: of each choice; bytes of the fullest rank.
        fits: whether some partition fits in memory.
        counted: False where another choice is the same by symmetry.
    """

    ground: Ground
    micros: tuple[int, ...]
    looped: Looped
    seconds: Floats
    bytes_: Floats
    fits: NDArray[np.bool_]
    counted: NDArray[np.bool_]


@dataclass(frozen=True)
class Survey:
    """The survey of one request."""

    tables: Tables
    settings: Settings
    global_batch: int
    norms: float = 0.0
    """Seconds of the all-reduce of squared norms, the same for all layouts."""

    def choices(self, ground: Ground, micros: tuple[int, ...]) -> int:
        """How many different choices a layout has; see :func:`_distinct`."""
        per_schedule = len(self.tables.recomputes)
        per_schedule *= len(self.settings.sequences) if ground.layout.tp > 1 else 1
        per_schedule *= len(self.tables.shardings) if ground.replicas > 1 else 1
        return sum(len(self._schedules(ground, micro)) * per_schedule for micro in micros)

    def shortage(self, ground: Ground, micros: tuple[int, ...]) -> float:
        """Bytes that the lightest choice lacks on all stages together; 0 when it may fit.

        The lightest: least micro-batch, and the least of every term over
        recomputations, shardings and sequence parallelism, one micro-batch in flight.
        """
        stages = _Stages(self, ground, micros[:1])
        fixed, each = stages.states.min(axis=0), stages.per_block.min(axis=0)
        active = [part.reshape(-1, part.shape[-1]).min(axis=0) for part in stages.activations]
        working, kept, kept_each = (part * micros[0] for part in active)
        room = stages.room - fixed - working - kept
        slope = np.maximum(each + kept_each, 1e-9)
        blocks = np.clip(np.floor(room / slope), -1.0, float(self.tables.layers))
        if stages.count == 1:
            return max(0.0, -float(room[0]))
        short = float(np.sum(np.minimum(room - stages.floor * slope, 0.0)))
        lacking = self.tables.layers - float(np.sum(np.maximum(blocks, 0.0)))
        return max(-short, lacking * float(np.max(slope)), 0.0)

    def scores(self, ground: Ground, micros: tuple[int, ...]) -> Iterator[Scores]:
        """Time and memory of every choice, schedule by schedule."""
        stages = _Stages(self, ground, micros)
        each_micro = [self._schedules(ground, micro) for micro in micros]
        for looped in dict.fromkeys(name for names in each_micro for name in names):
            use = np.array([looped in names for names in each_micro])
            yield _score(self, stages, looped, use)

    def _schedules(self, ground: Ground, micro: int) -> list[Looped]:
        layout = ground.layout
        microbatches = self.global_batch // (micro * layout.dp)
        return schedules_of(self.settings, layout.pp, microbatches, self.tables.layers)


class _Stages:
    """The arrays of one layout that all its schedules share."""

    def __init__(self, survey: Survey, ground: Ground, micros: tuple[int, ...]) -> None:
        self.survey, self.ground, self.micros = survey, ground, micros
        layout, tables = ground.layout, survey.tables
        self.count = layout.pp
        self.room = np.array(ground.room)
        self.floor = np.ones(self.count)
        self.floor[[0, -1]] = 0.0
        if self.count == 1:
            self.floor[:] = tables.layers
        self.micro = np.array(micros, dtype=float)
        self.microbatches = survey.global_batch // (self.micro * layout.dp)
        ends = [(s == 0, s == self.count - 1) for s in range(self.count)]
        held = {e: tables.held(layout.tp, layout.cp, ground.replicas, e) for e in set(ends)}
        self.states = np.stack([held[e].fixed for e in ends], axis=-1)
        self.per_block = np.stack([held[e].per_block for e in ends], axis=-1)
        self.activations = tuple(
            np.stack([getattr(held[e], name) for e in ends], axis=-1)
            for name in ("working", "kept", "kept_per_block")
        )

    def times(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Forward and backward of a block, and of a stage's ends, [m, r, s, z, stage]."""
        if not hasattr(self, "_times"):
            self._times = self._found_times()
        return self._times

    def _found_times(self) -> tuple[Floats, Floats, Floats, Floats]:
        layout, tables = self.ground.layout, self.survey.tables
        patterns = self.ground.patterns
        different = list(dict.fromkeys(patterns))
        kinds = [self.ground.kinds[patterns.index(pattern)] for pattern in different]
        each = [tables.block_times(k, layout.tp, layout.cp, self.micros) for k in kinds]
        index = [different.index(pattern) for pattern in patterns]
        forward = np.stack([self._forward(times, i) for i, times in enumerate(each)], axis=-1)
        backward = np.stack([self._backward(times, i) for i, times in enumerate(each)], axis=-1)
        zeros = np.zeros((*each[0].forward.shape, 1, self.count))
        ends_forward, ends_backward = zeros, zeros.copy()
        first, last = each[index[0]], each[index[-1]]
        ends_forward[..., 0] += first.first_forward[..., None]
        ends_backward[..., 0] += first.first_backward[..., None]
        ends_forward[..., -1] += last.last_forward[..., None]
        ends_backward[..., -1] += last.last_backward[..., None]
        return forward[..., index], backward[..., index], ends_forward, ends_backward

    def _ring(self, times: BlockTimes, which: int) -> Floats:
        """What a context ring adds to one forward, [m, r, s]."""
        if self.ground.layout.cp == 1:
            return np.zeros_like(times.forward)
        patterns = self.ground.patterns
        stage = patterns.index(list(dict.fromkeys(patterns))[which])
        ring = self.ground.rings[stage]
        whole = self.survey.tables.cost.workload.blocks[1].output_bytes
        bytes_ = KEYS_AND_VALUES * whole / self.ground.layout.tp * self.micro
        seconds = ring.latency + bytes_ * ring.per_byte
        found: Floats = np.maximum(0.0, seconds[:, None, None] - times.attention)
        return found

    def _per_micro(self, times: Floats, which: int, *, backward: bool) -> Floats:
        """Block times with the gathers of every sharding, [m, r, s, z]."""
        tables = self.survey.tables
        patterns = self.ground.patterns
        stage = patterns.index(list(dict.fromkeys(patterns))[which])
        exchange, workload = self.ground.exchanges[stage], tables.cost.workload
        size = tables.middle_parameters
        gather = exchange.seconds(size * workload.parameter_bytes, 1)
        reduce = exchange.seconds(size * workload.gradient_bytes, 1)
        columns = []
        for sharding in tables.shardings:
            forwards, backwards = gathers(sharding)
            least = forwards * gather
            if backward:
                least = (backwards - 1) * gather + reduce if backwards else 0.0
            columns.append(np.maximum(times, least if self.ground.replicas > 1 else 0.0))
        return np.stack(columns, axis=-1)

    def _forward(self, times: BlockTimes, which: int) -> Floats:
        ring = self._ring(times, which)
        return self._per_micro(times.forward + ring, which, backward=False)

    def _backward(self, times: BlockTimes, which: int) -> Floats:
        ring = self._ring(times, which)
        again = np.array([float(mode != "none") for mode in self.survey.tables.recomputes])
        whole = times.backward + (BACKWARD_ROUNDS + again[None, :, None]) * ring
        return self._per_micro(whole, which, backward=True)


def _score(survey: Survey, stages: _Stages, looped: Looped, use: NDArray[np.bool_]) -> Scores:
    """One schedule of one layout."""
    tables, layers = survey.tables, survey.tables.layers
    forward, backward, ends_forward, ends_backward = stages.times()
    each = np.maximum(forward + backward, LEAST_SECONDS)
    fixed = np.broadcast_to(ends_forward + ends_backward, each.shape)
    base, slope = _memory(stages, looped)
    most = np.clip(np.floor((stages.room - base) / slope), -1.0, float(layers))
    fits = (most.sum(axis=-1) >= layers) & np.all(most >= stages.floor, axis=-1)
    slowest = _bottleneck(stages, each, fixed, most, fits)
    blocks = blocks_within(slowest, each, fixed, stages.floor, np.maximum(most, 0.0))
    blocks = blocks * (layers / np.maximum(blocks.sum(axis=-1, keepdims=True), 1.0))
    done_forward = ends_forward + blocks * forward
    done_backward = ends_backward + blocks * backward
    seconds = _seconds(stages, looped, (done_forward, done_backward, blocks), slowest)
    bytes_ = np.max(base + slope * blocks, axis=-1)
    shape = seconds.shape
    return Scores(
        ground=stages.ground,
        micros=stages.micros,
        looped=looped,
        seconds=seconds,
        bytes_=bytes_,
        fits=fits & use[:, None, None, None],
        counted=np.broadcast_to(use[:, None, None, None], shape) & _distinct(stages, shape),
    )


def _memory(stages: _Stages, looped: Looped) -> tuple[Floats, Floats]:
    """Bytes without blocks and per block, [m, r, s, z, stage]."""
    schedule, virtual = looped
    flight = np.array(
        [
            [
                np.ceil(flight_of(schedule, stage, stages.count, int(m), virtual))
                for stage in range(stages.count)
            ]
            for m in stages.microbatches
        ]
    )
    micro = stages.micro[:, None, None, None, None]
    many = flight[:, None, None, None, :]
    working, kept, per_block = (part[None, :, :, None, :] for part in stages.activations)
    base = stages.states[None, None, None] + micro * (working + many * kept)
    slope = stages.per_block[None, None, None] + micro * many * per_block
    return base, np.maximum(slope, 1e-9)


def _bottleneck(
    stages: _Stages, each: Floats, fixed: Floats, most: Floats, fits: NDArray[np.bool_]
) -> Floats:
    """The slowest stage of the best partition; memory matters only where it is short."""
    layers = stages.survey.tables.layers
    if stages.count == 1:
        whole: Floats = (fixed + layers * each)[..., 0]
        return whole
    if not hasattr(stages, "_free"):
        free = np.full(stages.count, float(layers))
        stages._free = least_bottleneck(each, fixed, stages.floor, free, layers)  # type: ignore[attr-defined]
    slowest: Floats = stages._free.copy()  # type: ignore[attr-defined]
    wanted = blocks_within(slowest, each, fixed, stages.floor, np.full(stages.count, float(layers)))
    held = np.minimum(wanted, np.maximum(most, stages.floor)).sum(axis=-1) >= layers
    short = fits & ~held
    if short.any():
        floor = np.broadcast_to(stages.floor, each.shape)[short]
        slowest[short] = least_bottleneck(each[short], fixed[short], floor, most[short], layers)
    return slowest


def _seconds(
    stages: _Stages, looped: Looped, done: tuple[Floats, Floats, Floats], slowest: Floats
) -> Floats:
    """The formula of the module."""
    schedule, virtual = looped
    forward, backward, blocks = done
    ground, workload = stages.ground, stages.survey.tables.cost.workload
    boundary = workload.blocks[0].output_bytes / (ground.layout.cp * ground.layout.tp)
    sent = (boundary * stages.micro)[:, None, None, None]
    cuts = [cut.latency + sent * cut.per_byte for cut in ground.cuts]
    period = np.maximum(slowest, np.max(cuts, axis=0) * virtual) if cuts else slowest
    if virtual > 1:
        period = np.maximum(
            period, (virtual - 1) * (ground.wrap.latency + sent * ground.wrap.per_byte)
        )
    fill = forward.sum(axis=-1) + backward.sum(axis=-1) - slowest
    share = filled_share(schedule, virtual)
    if schedule == "zero-bubble":
        fill = np.maximum(0.0, fill - _weight_gradients(stages, forward, backward))
    tail = _tail(stages, forward, backward, blocks, share)
    microbatches = stages.microbatches[:, None, None, None]
    found: Floats = microbatches * period + share * fill + 2.0 * sum(cuts) + tail
    return found + stages.survey.norms


def _weight_gradients(stages: _Stages, forward: Floats, backward: Floats) -> Floats:
    """What zero-bubble fills of the bubble: the weight gradients of all stages but one."""
    again = np.zeros(forward.shape[1])
    again[[mode == "full" for mode in stages.survey.tables.recomputes]] = 1.0
    plain = backward - again[None, :, None, None, None] * forward
    found: Floats = np.minimum(forward, plain / 2)[..., 1:].sum(axis=-1)
    return found


def _tail(
    stages: _Stages, forward: Floats, backward: Floats, blocks: Floats, share: float
) -> Floats:
    """What stands after the last backward of stage 0."""
    survey, ground = stages.survey, stages.ground
    workload, tp = survey.tables.cost.workload, ground.layout.tp
    owned = np.array([1.0 if z == "none" else ground.replicas for z in survey.tables.shardings])
    elements = blocks * survey.tables.middle_parameters
    elements[..., 0] += workload.blocks[0].parameters
    elements[..., -1] += workload.blocks[-1].parameters
    if stages.count == 1:
        elements -= workload.tied_parameters
    steps = [survey.tables.step(slots) for slots in ground.kinds]
    few, per_element = np.array(steps).T
    exposed = few + elements / (tp * owned[:, None]) * per_element
    last_bucket = np.zeros(ground.layout.pp)
    if ground.replicas > 1:
        exposed = exposed + _exchanged(stages, forward, backward, elements)
        last_bucket = np.array(
            [
                e.seconds(workload.tied_parameters * workload.gradient_bytes, 1)
                for e in ground.exchanges
            ]
        )
    drained = np.concatenate(
        [np.zeros((*backward.shape[:-1], 1)), np.cumsum(backward, axis=-1)[..., :-1]], axis=-1
    )
    tail: Floats = np.max(exposed - share * drained, axis=-1)
    if workload.tied is not None and stages.count > 1:
        shared = workload.tied_parameters / tp * workload.gradient_bytes
        tied = ground.wrap.seconds(shared, 2) + float(max(last_bucket[0], last_bucket[-1]))
        tail = np.maximum(
            tail, tied + np.max(few + elements / (tp * owned[:, None]) * per_element, axis=-1)
        )
    return np.maximum(tail, 0.0)


def _exchanged(stages: _Stages, forward: Floats, backward: Floats, elements: Floats) -> Floats:
    """Gradient reduction and parameter gather that nothing hides, [m, r, s, z, stage]."""
    survey = stages.survey
    workload = survey.tables.cost.workload
    latency = np.array([e.latency for e in stages.ground.exchanges]) * BUCKETS_PER_STAGE
    per_byte = np.array([e.per_byte for e in stages.ground.exchanges])
    reduce = latency + elements * workload.gradient_bytes * per_byte
    gather = latency + elements * workload.parameter_bytes * per_byte
    every = np.array([0.0 if gathers(z)[0] else 1.0 for z in survey.tables.shardings])
    gather = gather * every[:, None]
    if not survey.settings.overlap:
        return reduce + gather
    hidden = (BUCKETS_PER_STAGE - 1) / BUCKETS_PER_STAGE
    found: Floats = np.maximum(reduce - hidden * backward, reduce / BUCKETS_PER_STAGE)
    found += np.maximum(gather - hidden * forward, gather / BUCKETS_PER_STAGE)
    return found


def _distinct(stages: _Stages, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """False where a choice changes nothing: sequence without tensor ranks, sharding without replicas."""
    found = np.ones(shape, dtype=bool)
    sequences = stages.survey.settings.sequences
    if stages.ground.layout.tp == 1 and len(sequences) > 1:
        found[:, :, [on for on in range(len(sequences)) if sequences[on]], :] = False
    if stages.ground.replicas == 1:
        found[..., 1:] = False
    return found


def choice_at(scores: Scores, settings: Settings, index: tuple[int, ...]) -> tuple[int, Choice]:
    """(micro-batch, choice) at an index of the arrays."""
    m, r, s, z = index
    schedule, virtual = scores.looped
    return scores.micros[m], Choice(
        recompute=settings.recomputes[r],
        sharding=settings.shardings[z],
        schedule=schedule,
        virtual_stages=virtual,
        sequence=settings.sequences[s],
    )
