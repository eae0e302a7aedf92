"""The two engines against each other to the nanosecond, and bytes in every simulated run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holmes.cost.network import Flow
from holmes.plan.program import program_of
from holmes.schedule.instruction import Op
from holmes.simulate import (
    lower_bound_seconds,
    resource_seconds,
    simulate,
    simulate_step,
    step_seconds,
)
from holmes.simulate.events import Engine, SimulationError
from holmes.simulate.sharing import fair_rates, max_min_rates
from holmes.simulate.tables import tables_of
from tests.simulate.plans import Case, UncontendedCost, make
from tests.simulate.test_events import cases

NANOSECOND = 1.0


@given(cases())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_without_contention_the_engines_agree_to_the_nanosecond(case: Case) -> None:
    plan, cost = make(replace(case, shared_nodes=False), UncontendedCost)
    events = simulate(plan, cost).makespan
    assert abs(events - step_seconds(plan, cost) * 1e9) <= NANOSECOND


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_the_engines_agree_on_many_unequal_stages(schedule: str) -> None:
    """Enough stages for the closed form by levels, on cuts of their own."""
    forward = tuple(0.5 + 0.07 * (7 * s % 11) for s in range(12))
    case = Case(forward, tuple(2 * f for f in forward), 30, boundary_bytes=3e7, schedule=schedule)
    plan, cost = make(case, UncontendedCost)
    assert abs(simulate(plan, cost).makespan - step_seconds(plan, cost) * 1e9) <= NANOSECOND


rates = st.sampled_from([3e7, 2.5e8, 1e9, 7e9])


@st.composite
def sites(draw: st.DrawFn) -> Case:
    """A pipeline on a site of any fast cards, slow cards and shared link."""
    return replace(
        draw(cases()),
        fast=draw(rates),
        ethernet=draw(rates),
        link=draw(st.one_of(st.none(), rates)),
        shared_nodes=draw(st.booleans()),
    )


@given(sites())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_sharing_never_makes_a_step_shorter(case: Case) -> None:
    plan, cost = make(case)
    _, free = make(case, UncontendedCost)
    assert simulate(plan, cost).makespan >= simulate(plan, free).makespan * (1 - 1e-9) - 1
    assert lower_bound_seconds(plan, cost) * 1e9 <= simulate(plan, cost).makespan + 1


@given(sites())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_byte_sent_is_received_and_is_what_the_formula_says(case: Case) -> None:
    plan, cost = make(case)
    program = program_of(plan)
    told = simulate_step(plan, cost, program)
    capacity = cost.network(plan.rank_map).capacity
    asked = resource_seconds(plan, cost, program)
    for name, moved in told.carried.items():
        assert moved == pytest.approx(asked[name] * capacity[name], rel=1e-6, abs=0.1)
    for kind in ("infiniband", "roce", "ethernet"):
        sent = sum(m for n, m in told.carried.items() if n.endswith(f"{kind}/tx"))
        received = sum(m for n, m in told.carried.items() if n.endswith(f"{kind}/rx"))
        assert sent == pytest.approx(received, rel=1e-6, abs=0.1)
    spans = told.timeline.spans
    given_, taken = (sum(s.bytes for s in spans if s.op == op) for op in (Op.SEND, Op.RECEIVE))
    cuts = len(plan.stages) - 1
    assert given_ == taken == 2 * cuts * case.dp * case.microbatches * int(case.boundary_bytes)


def test_lost_bytes_are_an_error() -> None:
    plan, cost = make(Case((1.0, 1.0), (2.0, 2.0), 2, boundary_bytes=1e8))
    engine = Engine(tables_of(plan, cost, program_of(plan)))
    engine.run()
    engine.wire.carried[0] *= 0.5
    with pytest.raises(SimulationError, match="carried"):
        engine.check()


def test_only_true_ends_count_as_events() -> None:
    """One stage, no network: three computations and the step, each ends once."""
    plan, cost = make(Case((1.0,), (2.0,), 2))
    assert simulate_step(plan, cost).events == 5


flows = st.lists(
    st.tuples(
        st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True),
        st.integers(1, 3),
        st.sampled_from([0.5, 2.0, float("inf")]),
    ),
    min_size=1,
    max_size=8,
)


@given(flows, st.lists(st.floats(0.1, 10.0), min_size=5, max_size=5))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_numbered_rates_equal_the_twin(
    given_: list[tuple[list[int], int, float]], capacity: list[float]
) -> None:
    named = [Flow(tuple(map(str, path)), 1.0, weight, cap) for path, weight, cap in given_]
    wanted = max_min_rates(named, {str(i): rate for i, rate in enumerate(capacity)})
    paths, weights, caps = (list(column) for column in zip(*given_, strict=True))
    assert fair_rates(paths, weights, caps, capacity) == pytest.approx(wanted, rel=1e-9)
