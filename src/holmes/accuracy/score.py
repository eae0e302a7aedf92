"""Scores of predictions against measurements. Errors are fractions of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from holmes.accuracy.table import Case, Measured


@dataclass(frozen=True)
class Scored:
    """One row with both numbers. ``error`` is (predicted - measured) / measured in seconds."""

    row: int
    model: str
    metric: str
    predicted: float
    measured: float
    error: float


@dataclass(frozen=True)
class Score:
    """A table's errors: mean and median of |error|, their mean with sign, rank correlation."""

    n: int
    mape: float | None
    median_ape: float | None
    bias: float | None
    spearman: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score_of(rows: Sequence[Scored]) -> Score:
    """The score over rows; None where there are too few."""
    if not rows:
        return Score(0, None, None, None, None)
    errors = [row.error for row in rows]
    return Score(
        n=len(rows),
        mape=fmean(abs(error) for error in errors),
        median_ape=median(abs(error) for error in errors),
        bias=fmean(errors),
        spearman=spearman([r.predicted for r in rows], [r.measured for r in rows]),
    )


def compare_time(case: Case, measured: Measured, seconds: float, flops: float) -> Scored | None:
    """A predicted step against ``iter_time_s``, else ``samples_per_s``, else TFLOP/s.

    Args:
        flops: FLOPs of one sample by the convention of the row's TFLOP/s.

    Returns:
        None where the row has no measured time.
    """
    if measured.seconds is not None:
        return _scored(case, "iter_time_s", seconds, measured.seconds)
    if measured.samples_per_second is not None:
        rate = case.global_batch / seconds
        return _scored(case, "samples_per_s", rate, measured.samples_per_second)
    if measured.tflops is not None:
        rate = flops * case.global_batch / seconds / case.devices / 1e12
        return _scored(case, "tflops_per_gpu", rate, measured.tflops)
    return None


def compare_memory(case: Case, measured: Measured, peak: float, counted: float) -> Scored | None:
    """A predicted peak against the measured one, else states and activations against a paper's
    count of them; None where the row has neither."""
    if measured.memory_bytes is not None:
        return _scored(case, "memory_bytes", peak, measured.memory_bytes)
    if measured.counted_bytes is not None:
        return _scored(case, "counted_bytes", counted, measured.counted_bytes)
    return None


def _scored(case: Case, metric: str, predicted: float, measured: float) -> Scored:
    error = (predicted - measured) / measured
    return Scored(case.row, case.model, metric, predicted, measured, error)


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Rank correlation, ties at their mean rank; None below three values or without spread."""
    if len(a) < 3:
        return None
    x, y = (_ranks(np.asarray(values, dtype=float)) for values in (a, b))
    if x.std() == 0.0 or y.std() == 0.0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: np.ndarray[Any, np.dtype[np.float64]] = (last - (counts - 1) / 2.0)[inverse]
    return ranks
