"""The search learns from prices that lie above their scores."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from holmes.cost.calibration import DEFAULT
from holmes.hardware.read import read_site
from holmes.models.gpt.describe import config_from, workload
from holmes.plan.layout import Wishes
from holmes.planner.experience import Experience
from holmes.planner.field import Row
from holmes.planner.request import PlanRequest
from holmes.planner.search import Search


def asked(**wishes: object) -> PlanRequest:
    model = workload(config_from("gpt-3.6b"), "mixed")
    fixed = Wishes(tensor=1, pipeline=16, **wishes)  # type: ignore[arg-type]
    return PlanRequest("test", read_site("paper"), model, 768, None, fixed, DEFAULT)


@pytest.fixture(scope="module")
def row() -> Row:
    search = Search(asked(schedule="1f1b"))
    search.survey()
    return next(search.field.ordered())


def test_what_holds_as_much_costs_as_much_more_than_its_score(row: Row) -> None:
    prices = Experience()
    assert prices.expected(row) == row.seconds
    prices.add(row, 1.25 * row.seconds)
    other = replace(row, seconds=2.0, choice=replace(row.choice, sharding="none"))
    assert prices.expected(other) == 2.5
    assert prices.expected(replace(other, bytes_=row.bytes_ / 2)) == 2.0
    assert prices.expected(replace(other, choice=replace(row.choice, recompute="full"))) == 2.0


def test_the_best_of_its_like_speaks_for_a_candidate(row: Row) -> None:
    prices = Experience()
    prices.add(row, math.inf)
    assert prices.expected(row) == math.inf
    prices.add(row, row.seconds)
    assert prices.expected(row) == row.seconds


def test_scores_that_mislead_do_not_hide_a_better_plan() -> None:
    """On two clusters the best scores are of a schedule whose warm-up does not fit in memory;
    with that schedule or without, no plan of one schedule is better than the plan of all."""
    best = Search(asked()).winner().seconds
    assert best <= Search(asked(schedule="1f1b")).winner().seconds * 1.005
