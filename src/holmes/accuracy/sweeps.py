"""How well predictions choose: rank correlation and regret within sweeps of layouts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from holmes.accuracy.score import Scored, spearman
from holmes.accuracy.table import Case

LEAST_ROWS = 4
"""Smaller sweeps say nothing about ranks."""


@dataclass(frozen=True)
class Choice:
    """Over the sweeps of a table: one model, devices and global batch, several layouts.

    ``regret`` of a sweep is the measured time of the layout predicted best over the best
    measured one, less one.
    """

    sweeps: int
    rank_correlation: float | None
    mean_regret: float
    worst_regret: float


def choices(cases: Mapping[int, Case], rows: Sequence[Scored]) -> Choice | None:
    """Score rows of step times as choices; None where no sweep is large enough."""
    sweeps: dict[tuple[object, ...], list[Scored]] = defaultdict(list)
    for row in rows:
        case = cases[row.row]
        if row.metric == "iter_time_s":
            sizes = (case.model, case.site, case.sequence, case.precision, case.compiled)
            sweeps[(*sizes, case.devices, case.global_batch)].append(row)
    large = [sweep for sweep in sweeps.values() if len(sweep) >= LEAST_ROWS]
    if not large:
        return None
    ranks = [spearman([r.predicted for r in s], [r.measured for r in s]) for s in large]
    known = [rank for rank in ranks if rank is not None]
    regrets = [
        min(sweep, key=lambda row: row.predicted).measured / min(row.measured for row in sweep) - 1
        for sweep in large
    ]
    return Choice(len(large), fmean(known) if known else None, fmean(regrets), max(regrets))
