"""Young and Daly against the minimum found by trying."""

from __future__ import annotations

import math

import pytest

from holmes.runtime.checkpoint.interval import (
    DEVICE_MTBF_HOURS,
    daly,
    lost_share,
    suggest,
    young,
)


def expected_time(interval: float, cost: float, mtbf: float) -> float:
    """Seconds per useful second with exponential failures and free restarts (Daly, equation 13)."""
    return mtbf * (math.exp((interval + cost) / mtbf) - 1) / interval


@pytest.mark.parametrize(("cost", "mtbf"), [(1, 1e4), (30, 3600), (100, 1000), (0.01, 1e6)])
def test_the_interval_is_where_the_expected_time_is_least(cost: float, mtbf: float) -> None:
    tried = [young(cost, mtbf) * factor / 200 for factor in range(20, 600)]
    best = min(tried, key=lambda interval: expected_time(interval, cost, mtbf))
    assert daly(cost, mtbf) == pytest.approx(best, rel=0.03)


def test_a_cheap_save_is_bounded_by_its_writing() -> None:
    assert suggest(0.001, 60.0, 3600.0).seconds == 60.0
    assert suggest(0.001, 60.0, 3600.0).bound == "writing"
    rare = suggest(1.0, 1.0, 1e6)
    assert rare.bound == "failures"
    assert rare.seconds == daly(1.0, 1e6)


def test_what_is_lost_grows_with_cost_and_failures() -> None:
    assert lost_share(100, 1, 1e4) == pytest.approx(1 / 101 + 101 / 2e4)
    assert daly(10.0, 4.0) == 4.0
    assert 50_000 < DEVICE_MTBF_HOURS < 52_000
