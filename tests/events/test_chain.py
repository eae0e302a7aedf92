"""Causes of a difference: exact sums, and the cause that was put in is the one that is found."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holmes.errors import DataError
from holmes.events.chain import Difference, chain, differences
from holmes.events.order import Order, order_of
from holmes.events.span import Span, Timeline
from holmes.plan.plan import Plan
from holmes.plan.program import program_of
from holmes.simulate import simulate
from holmes.simulate.meetings import program_ranks
from tests.simulate.plans import Case, make
from tests.simulate.test_events import cases

CASE = Case(
    (1.0, 1.0), (2.0, 2.0), 4, dp=2, blocks=(2, 2), boundary_bytes=2e8, parameters=10_000_000
)


def order(plan: Plan) -> Order:
    return order_of(program_of(plan), program_ranks(plan))


def total(found: list[Difference], cause: str) -> int:
    return sum(one.nanoseconds for one in found if one.cause == cause)


def changed(timeline: Timeline, change: Callable[[Span], Span]) -> Timeline:
    return Timeline("measured", tuple(change(span) for span in timeline.spans))


@given(cases(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_parts_add_up_exactly_whatever_was_measured(case: Case, seed: int) -> None:
    plan, cost = make(case)
    predicted = simulate(plan, cost)

    def jitter(span: Span) -> Span:
        late = (seed * (span.id + 7)) % 50_000_000
        return replace(span, start=span.start + late // 3, stop=span.stop + late)

    measured = changed(predicted, jitter).step(0)
    found = differences(predicted, measured, order(plan))
    assert sum(one.nanoseconds for one in found) == measured.makespan - predicted.makespan
    assert differences(predicted, predicted, order(plan)) == [
        one for one in differences(predicted, predicted, order(plan)) if one.nanoseconds == 0
    ]


def test_the_chain_covers_the_simulated_step_without_a_gap() -> None:
    plan, cost = make(CASE)
    timeline = simulate(plan, cost)
    path = chain(timeline, order(plan))
    assert path[0].begin == 0 and path[-1].stop == timeline.makespan
    for before, after in itertools.pairwise(path):
        assert abs(after.begin - before.stop) <= 1


@pytest.mark.parametrize("stage", [0, 1])
def test_a_slow_stage_is_found_as_compute(stage: int) -> None:
    plan, cost = make(CASE)
    slow = tuple(1.5 if s == stage else 1.0 for s in range(2))
    _, slower = make(replace(CASE, forward=slow, backward=tuple(2 * f for f in slow)))
    predicted, measured = simulate(plan, cost), simulate(plan, slower)
    found = differences(predicted, measured, order(plan))
    longer = [one for one in found if one.cause == "compute" and one.nanoseconds > 10]
    of = order(plan).instructions
    assert {of[one.id].stage for one in longer if one.id is not None} == {stage}
    assert total(found, "compute") >= 0.9 * (measured.makespan - predicted.makespan)


def test_a_slow_link_is_found_as_transfer() -> None:
    plan, cost = make(CASE)
    _, slower = make(replace(CASE, ethernet=CASE.ethernet / 4))
    predicted, measured = simulate(plan, cost), simulate(plan, slower)
    found = differences(predicted, measured, order(plan))
    assert total(found, "transfer") >= measured.makespan - predicted.makespan > 0
    of = order(plan).instructions
    worst = max(found, key=lambda one: one.nanoseconds)
    assert worst.id is not None and (of[worst.id].group or "").startswith("pipeline")


def test_a_late_rank_is_found_as_waiting_on_it() -> None:
    """Rank 2 starts its last computation 300 ms late."""
    plan, cost = make(replace(CASE, overlap=True))
    predicted = simulate(plan, cost)
    step = next(s for s in predicted.spans if s.op == "step" and s.rank == 2)
    late = 300_000_000
    measured = changed(
        predicted,
        lambda s: replace(s, start=s.start + late, stop=s.stop + late) if s.id == step.id else s,
    )
    (only,) = [one for one in differences(predicted, measured, order(plan)) if one.nanoseconds]
    assert (only.cause, only.rank, only.nanoseconds) == ("waiting", 2, late)


def test_a_trace_of_another_plan_is_refused() -> None:
    plan, cost = make(CASE)
    predicted = simulate(plan, cost)
    foreign = changed(predicted, lambda s: replace(s, id=s.id + 10_000))
    with pytest.raises(DataError, match="which the plan does not have"):
        differences(predicted, foreign, order(plan))
    with pytest.raises(DataError, match="only one of the two steps"):
        differences(Timeline("predicted", predicted.spans[:3]), predicted, order(plan))
