"""Scores by hand, and how well a table's layouts are chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holmes.accuracy.score import Scored, compare_time, score_of, spearman
from holmes.accuracy.sweeps import choices
from holmes.accuracy.table import Case, Measured

CASE = Case(2, "GPT", 24, 1024, 16, 1024, None, 50257, "s", 8, 2, 1, 4, 1, 1, 2, 64, "full")


def scored(row: int, predicted: float, measured: float) -> Scored:
    return Scored(row, "GPT", "iter_time_s", predicted, measured, predicted / measured - 1)


def test_scores_are_fractions_of_what_was_measured() -> None:
    score = score_of([scored(1, 1.1, 1.0), scored(2, 1.8, 2.0), scored(3, 3.0, 3.0)])
    assert score.n == 3
    assert score.mape == pytest.approx(0.2 / 3)
    assert score.median_ape == pytest.approx(0.1)
    assert score.bias == pytest.approx(0.0)
    assert score.spearman == 1.0
    assert score_of([]).mape is None


def test_rank_correlation_shares_ranks_among_ties() -> None:
    assert spearman([1, 2, 3], [30, 20, 10]) == pytest.approx(-1.0)
    assert spearman([1, 1, 2, 3], [5, 5, 6, 7]) == pytest.approx(1.0)
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_flops_are_compared_per_device() -> None:
    found = compare_time(CASE, Measured(tflops=100.0), 2.0, flops=5e13)
    assert found is not None
    assert found.predicted == pytest.approx(5e13 * 64 / 2.0 / 8 / 1e12)
    assert compare_time(CASE, Measured(), 2.0, 1.0) is None


def test_regret_is_what_the_predicted_best_loses() -> None:
    cases = {row: replace(CASE, row=row) for row in range(1, 5)}
    rows = [scored(1, 1.0, 1.2), scored(2, 2.0, 1.0), scored(3, 3.0, 3.0), scored(4, 4.0, 4.0)]
    found = choices(cases, rows)
    assert found is not None and found.sweeps == 1
    assert found.worst_regret == pytest.approx(0.2)
    assert found.rank_correlation == pytest.approx(0.8)
    assert choices(cases, rows[:3]) is None
