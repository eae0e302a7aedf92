"""The candidates of one search: their scores, how many there were, and which come first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from holmes.cost.model import CostModel
from holmes.plan.plan import Batch, Rejected
from holmes.planner.candidates import Choice, Shape, name_of
from holmes.planner.ground import Ground
from holmes.planner.placement import cluster_of
from holmes.planner.settings import Settings
from holmes.planner.survey.score import Scores, Survey
from holmes.planner.survey.tables import Tables
from holmes.schedule.instruction import Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

NORM_BYTES = 8
"""Squared norms travel in double precision, one per parameter tensor."""


@dataclass(frozen=True)
class Row:
    """One candidate and its score.

    ``seconds`` of a step, ``bytes_`` of the fullest rank.
    """

    ground: Ground
    shape: Shape
    choice: Choice
    seconds: float
    bytes_: float

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

    @staticmethod
    def of(cost: CostModel, settings: Settings, global_batch: int) -> Field:
        """An empty field."""
        tables = Tables(cost, settings.recomputes, settings.sequences, settings.shardings)
        return Field(Survey(tables, settings, global_batch, _norms(cost)))

    def add(self, ground: Ground, micros: tuple[int, ...]) -> None:
        """Score a layout on a rank map, unless no choice of it can fit in memory."""
        short = self.survey.shortage(ground, micros)
        if short > 0:
            self.counts.pruned += self.survey.choices(ground, micros)
            self.shortest.append((short, ground, micros))
            self.rejected.append(
                Rejected(
                    name_of(ground.layout),
                    f"does not fit in memory: short of {short / 1e9:.1f} GB even with the "
                    "lightest micro-batch, recomputation and sharding",
                )
            )
            return
        scores = self.survey.scores(ground, micros)
        self.counts.evaluated += int(scores.counted.sum())
        self.counts.feasible += int(scores.fits.sum())
        self.scores.append(scores)

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
        """Candidates that fit, fastest first; equal scores by fewer bytes, then as enumerated."""
        seconds, bytes_, places = self.flat()
        for index in np.lexsort((bytes_, seconds)):
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
        )


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
