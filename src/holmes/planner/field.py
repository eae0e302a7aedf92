"""The candidates of one search: their scores, how many there were, and which come first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from holmes.cost.model import CostModel
from holmes.plan.layout import Layout
from holmes.plan.plan import Batch, Rejected
from holmes.planner.candidates import Choice, Shape, name_of
from holmes.planner.ground import Ground
from holmes.planner.placement import cluster_of
from holmes.planner.schedules import WHOLE_STAGE_WHOLE_BACKWARD
from holmes.planner.settings import Settings
from holmes.planner.survey.score import Scores, Survey
from holmes.planner.survey.tables import Tables
from holmes.schedule.instruction import Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

DOUBT = 0.02
"""How far a score may lie above the closed form of its best partition; a test measures it."""
LOOPED_DOUBT = 0.05
"""The same for schedules that are priced as 1F1B less what they gain."""
UNEVEN_DOUBT = 0.06
"""The same where one stage's gradient exchange is much slower than another's."""
LOOPED_UNEVEN_DOUBT = 0.07
"""The same where both hold."""
NORM_BYTES = 8
"""Squared norms travel in double precision, one per parameter tensor."""


Candidate = tuple[Layout, tuple[int, ...]]
"""A layout and its micro-batch sizes."""


@dataclass(frozen=True)
class Row:
    """One candidate and its score.

    ``seconds`` of a step, ``bytes_`` of the fullest rank. ``least_seconds`` is what no
    price of it is believed to be below.
    """

    ground: Ground
    shape: Shape
    choice: Choice
    seconds: float
    bytes_: float
    least_seconds: float

    def __str__(self) -> str:
        clusters = [cluster_of(slots) for slots in self.ground.slots]
        runs = " > ".join(dict.fromkeys(clusters))
        return f"{self.shape}, {self.choice}, stages on {runs}"


@dataclass
class Counts:
    """Candidates, equal ones counted once."""

    pruned: int = 0
    evaluated: int = 0
    feasible: int = 0

    @property
    def enumerated(self) -> int:
        return self.pruned + self.evaluated


@dataclass
class Field:
    """Scores of all layouts, as they are added."""

    survey: Survey
    scores: list[Scores] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    rejected: list[Rejected] = field(default_factory=list)
    shortest: list[tuple[float, Ground, tuple[int, ...]]] = field(default_factory=list)
    """(bytes short, ground, micro-batches) of layouts that the memory bound ruled out."""
    best: float = math.inf
    """The best score so far, seconds."""
    skipped: float = math.inf
    """Least seconds of what the search's deadline left unscored."""
    exhaustive: bool = False
    """Score also what a bound on memory or compute rules out, for lists and fronts."""
    narrow: Settings | None = None
    """Only what these allow rules out others, so that the best of them is found too."""
    _bounds: dict[Candidate, float] = field(default_factory=dict)
    """What :meth:`by_bound` found."""

    @staticmethod
    def of(cost: CostModel, settings: Settings, global_batch: int) -> Field:
        """An empty field."""
        tables = Tables(
            cost,
            settings.recomputes,
            settings.sequences,
            settings.shardings,
            settings.algorithms,
        )
        return Field(Survey(tables, settings, global_batch, _norms(cost)))

    def add(self, ground: Ground, micros: tuple[int, ...]) -> None:
        """Score a layout on a rank map, unless no choice of it can fit or be the best."""
        stages = self.survey.stages(ground, micros)
        short = self.survey.shortage(stages)
        if short > 0:
            self.shortest.append((short, ground, micros))
            self._prune(
                ground.layout,
                micros,
                f"does not fit in memory: short of {short / 1e9:.1f} GB even with the lightest "
                "micro-batch, recomputation and sharding",
            )
            return
        wanted = None
        if not self.exhaustive:
            bounds = self.survey.bounds(stages)
            least = float(bounds.min())
            if math.isinf(least) and self.best < math.inf:
                self._prune(ground.layout, micros, "no choice of it fits in memory")
                return
            if self._too_slow(least, ground.layout, micros):
                return
            wanted = bounds <= self.best * (1 + DOUBT)
        scores = self.survey.scores(stages, wanted)
        evaluated = int(np.isfinite(scores.seconds).sum())
        self.counts.pruned += scores.left_out + len(scores.places) - evaluated
        self.counts.evaluated += evaluated
        self.counts.feasible += int(scores.fits.sum())
        self.scores.append(scores)
        runnable = scores if self.narrow is None else scores.within(self.narrow)
        if _runs(ground.layout, self.narrow) and runnable.fits.any():
            self.best = min(self.best, float(runnable.seconds[runnable.fits].min()))

    def within(self, settings: Settings, layouts: Sequence[Candidate]) -> Field:
        """The part of this field that narrower settings allow; nothing is counted again."""
        wanted = dict(layouts)
        scores = [s.within(settings) for s in self.scores if s.ground.layout in wanted]
        shortest = [one for one in self.shortest if one[1].layout in wanted]
        return Field(self.survey, scores, Counts(), self.rejected, shortest, skipped=self.skipped)

    def by_bound(self, layouts: Sequence[Candidate]) -> list[Candidate]:
        """Layouts, the least compute first."""
        return sorted(layouts, key=lambda one: self._least_seconds(*one))

    def _least_seconds(self, layout: Layout, micros: tuple[int, ...]) -> float:
        if (layout, micros) not in self._bounds:
            self._bounds[layout, micros] = self.survey.least_seconds(layout, micros)
        return self._bounds[layout, micros]

    def skip(self, layout: Layout, micros: tuple[int, ...]) -> None:
        """Leave a layout unscored, because the search's deadline has passed."""
        self.skipped = min(self.skipped, self._least_seconds(layout, micros))
        self._prune(layout, micros, "not looked at: the search's deadline had passed")

    def too_slow(self, layout: Layout, micros: tuple[int, ...]) -> bool:
        """Whether the compute of a layout alone takes longer than the best score; counts it."""
        return self._too_slow(self._least_seconds(layout, micros), layout, micros)

    def _too_slow(self, least: float, layout: Layout, micros: tuple[int, ...]) -> bool:
        if self.exhaustive or least <= self.best * (1 + DOUBT):
            return False
        ratio = least / self.best
        reason = f"its compute alone takes {ratio:.2f} times the best plan"
        self._prune(layout, micros, reason)
        return True

    def _prune(self, layout: Layout, micros: tuple[int, ...], reason: str) -> None:
        self.counts.pruned += self.survey.choices(layout, micros)
        self.rejected.append(Rejected(name_of(layout), reason))

    def flat(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """(seconds, bytes, (scores, position)) of every candidate that fits."""
        seconds, bytes_, places = [], [], []
        for index, scores in enumerate(self.scores):
            inside = np.flatnonzero(scores.fits)
            seconds.append(scores.seconds[inside])
            bytes_.append(scores.bytes_[inside])
            places.append(np.stack([np.full(len(inside), index), inside], axis=-1))
        if not seconds:
            return np.zeros(0), np.zeros(0), np.zeros((0, 2), dtype=np.int64)
        return np.concatenate(seconds), np.concatenate(bytes_), np.concatenate(places)

    def ordered(self) -> Iterator[Row]:
        """Candidates that fit, the most promising first; of equal ones the smaller in memory."""
        seconds, bytes_, places = self.flat()
        if not len(seconds):
            return
        doubts = [_doubts(scores) for scores in self.scores]
        each = np.concatenate([d[s.fits] for d, s in zip(doubts, self.scores, strict=True)])
        least = seconds / (1 + each)
        for index in np.lexsort((bytes_, least)):
            yield self.row(places[index])

    def row(self, place: NDArray[np.int64]) -> Row:
        """The candidate at (scores, position)."""
        scores = self.scores[int(place[0])]
        at = int(place[1])
        micro, choice = scores.choice(at)
        return Row(
            scores.ground,
            Shape(scores.ground.layout, Batch(self.survey.global_batch, micro)),
            choice,
            float(scores.seconds[at]),
            float(scores.bytes_[at]),
            float(scores.seconds[at] / (1 + _doubts(scores)[at])),
        )


def _doubts(scores: Scores) -> NDArray[np.float64]:
    """How far each score may lie above its price, [row]."""
    plain, looped = DOUBT, LOOPED_DOUBT
    if scores.stages.uneven:
        plain, looped = UNEVEN_DOUBT, LOOPED_UNEVEN_DOUBT
    each = [plain if name in WHOLE_STAGE_WHOLE_BACKWARD else looped for name, _ in scores.schedules]
    found: NDArray[np.float64] = np.array(each)[scores.places // len(scores.stages.micro)]
    return found


def _runs(layout: Layout, settings: Settings | None) -> bool:
    """Whether the settings have the axes of a layout."""
    if settings is None:
        return True
    degrees = {
        "tensor": layout.tp,
        "pipeline": layout.pp,
        "data": layout.dp,
        "context": layout.cp,
        "expert": layout.ep,
    }
    return all(degree == 1 or axis in settings.axes for axis, degree in degrees.items())


def _norms(cost: CostModel) -> float:
    """Seconds of the all-reduce of squared norms over all devices, whatever the layout."""
    topology = cost.topology
    paths = topology.paths(topology.nodes)
    count = len(topology.devices)
    if count == 1 or (len(topology.nodes) > 1 and not paths):
        return 0.0
    fabric = paths[0].fabric if len(topology.nodes) > 1 else None
    bytes_ = NORM_BYTES * sum(block.tensors for block in cost.workload.blocks)
    network = cost.network(tuple(range(count)))
    return network.collective(Op.ALL_REDUCE, range(count), bytes_, fabric).seconds
