"""Spreading flows over paths against trying every placement."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holmes.errors import ConfigError, UnavailableError
from holmes.planner.paths import WORTH_MOVING, finish_seconds, respread, spread

SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=6)
RATES = st.lists(st.integers(0, 5), min_size=1, max_size=3).filter(any)


def least_seconds(bytes_: Sequence[float], rates: Sequence[float]) -> float:
    """The slow twin: every placement."""
    every = itertools.product(range(len(rates)), repeat=len(bytes_))
    return min(finish_seconds(bytes_, rates, paths) for paths in every)


@given(SIZES, RATES)
def test_the_end_is_near_that_of_the_best_placement(bytes_: list[int], rates: list[int]) -> None:
    paths = spread(bytes_, rates)
    best = least_seconds(bytes_, rates)
    assert all(rates[path] > 0 for path in paths)
    assert best <= finish_seconds(bytes_, rates, paths) < 2 * best


@given(SIZES, st.integers(1, 3))
def test_on_equal_paths_the_bound_of_graham_holds(bytes_: list[int], paths: int) -> None:
    found = finish_seconds(bytes_, [1] * paths, spread(bytes_, [1] * paths))
    assert found <= (4 / 3 - 1 / (3 * paths)) * least_seconds(bytes_, [1] * paths) + 1e-9


@given(st.integers(1, 8), st.integers(1, 4))
def test_equal_flows_fill_equal_paths_evenly(flows: int, paths: int) -> None:
    """As many flows as ports keep every port of a bonded card busy."""
    found = spread([7] * flows, [1] * paths)
    counts = [found.count(path) for path in range(paths)]
    assert max(counts) - min(counts) <= 1


@given(SIZES, RATES, st.data())
def test_flows_under_way_move_from_dead_paths_and_where_it_pays(
    bytes_: list[int], rates: list[int], data: st.DataObject
) -> None:
    held = [data.draw(st.integers(0, len(rates) - 1)) for _ in bytes_]
    paths = respread(bytes_, rates, held)
    assert all(rates[path] > 0 for path in paths)
    before, after = (finish_seconds(bytes_, rates, one) for one in (held, paths))
    assert after <= before
    if all(rates[path] > 0 for path in held) and paths != tuple(held):
        assert after < (1 - WORTH_MOVING) * before


def test_what_would_gain_little_stays() -> None:
    assert respread([10, 10, 10, 10], [1.0, 0.95], [0, 0, 1, 1]) == (0, 0, 1, 1)
    assert respread([10, 10, 10, 10], [1.0, 0.25], [0, 0, 1, 1]).count(1) == 1
    assert respread([10, 10, 10, 10], [1.0, 0.0], [0, 0, 1, 1]) == (0, 0, 0, 0)


def test_no_path_is_an_error() -> None:
    with pytest.raises(UnavailableError, match="no path is left"):
        spread([1], [0.0, 0.0])
    with pytest.raises(ConfigError):
        spread([1], [])
    with pytest.raises(ConfigError):
        spread([-1], [1.0])
    assert spread([], [1.0]) == ()
