"""The event simulator against times that can be written down."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holmes.plan.program import program_of
from holmes.schedule.generate import SCHEDULES, WITH_VIRTUAL_STAGES, WITH_WARMUP
from holmes.schedule.instruction import Op
from holmes.schedule.lower import Program
from holmes.simulate import (
    SimulationError,
    lower_bound_seconds,
    resource_seconds,
    simulate,
)
from tests.simulate.plans import Case, UncontendedCost, make

NS = 1e-9


def seconds(case: Case) -> float:
    return simulate(*make(case)).makespan * NS


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("stages", [1, 2, 3, 5])
@pytest.mark.parametrize("microbatches", [1, 2, 4, 9])
def test_bubble_is_stages_minus_one(schedule: str, stages: int, microbatches: int) -> None:
    case = Case((1.0,) * stages, (2.0,) * stages, microbatches, schedule=schedule)
    assert seconds(case) == pytest.approx(3.0 * (microbatches + stages - 1), rel=1e-6)


@pytest.mark.parametrize("m", [4, 8, 16])
@pytest.mark.parametrize("d", [0.1, 0.5, 1.0])
def test_plain_1f1b_stalls_once_per_microbatch_on_a_slow_cut(m: int, d: float) -> None:
    """Two stages, transfer d: m x d; one extra warm-up forward leaves 2 d (while 2 d <= f + b)."""
    ideal = 3.0 * (m + 1)
    case = Case((1.0, 1.0), (2.0, 2.0), m, boundary_bytes=d * 1e9, extra_warmup=(0,))
    assert seconds(case) == pytest.approx(ideal + m * d, rel=1e-6)
    assert seconds(replace(case, extra_warmup=(1,))) == pytest.approx(ideal + 2 * d, rel=1e-6)


def test_one_transfer_takes_latency_and_bytes_over_rate() -> None:
    case = Case((1.0, 1.0), (2.0, 2.0), 1, boundary_bytes=3e8, ethernet=1e9, latency=0.05)
    spans = simulate(*make(case)).spans
    sends = [span for span in spans if span.op == Op.SEND]
    assert len(sends) == 2
    for span in sends:
        assert (span.stop - span.start) * NS == pytest.approx(0.05 + 0.3, rel=1e-6)


def test_two_replicas_on_one_card_share_it() -> None:
    alone = Case((1.0, 1.0), (1.0, 1.0), 1, dp=2, boundary_bytes=1e9)
    shared = replace(alone, shared_nodes=True)
    assert seconds(alone) == pytest.approx(4.0 + 2.0, rel=1e-6)
    assert seconds(shared) == pytest.approx(4.0 + 4.0, rel=1e-6)


def test_the_link_between_clusters_is_shared_by_all_nodes() -> None:
    case = Case((1.0, 1.0), (1.0, 1.0), 1, dp=2, boundary_bytes=1e9, link=1e9)
    assert seconds(case) == pytest.approx(4.0 + 4.0, rel=1e-6)


def test_exchange_hides_under_backward_and_forward_when_asked() -> None:
    """Eight buckets of 0.05 s each way; without overlap all of it follows the last backward."""
    case = Case((2.0,), (4.0,), 2, dp=2, blocks=(8,), parameters=25_000_000)
    exchange = 8 * 0.05
    assert seconds(case) == pytest.approx(12.0 + 2 * exchange, rel=1e-6)
    first_gather_and_last_reduction = 2 * 0.05
    hidden = seconds(replace(case, overlap=True))
    assert hidden == pytest.approx(12.0 + first_gather_and_last_reduction, rel=1e-6)


def test_direct_exchange_and_ring_move_the_same_bytes() -> None:
    base = Case((1.0,), (2.0,), 1, dp=4, parameters=10_000_000)
    for style in ("direct", "ring"):
        plan, cost = make(replace(base, style=style))
        busy = resource_seconds(plan, cost)
        payload = 2 * 10_000_000 * 4 * 3 / 4
        for node in range(4):
            assert busy[f"ib-{node}/infiniband/tx"] * 1e9 == pytest.approx(payload)


def test_spans_carry_every_instruction_once() -> None:
    case = Case((1.0, 2.0), (2.0, 1.0), 5, dp=2, blocks=(3, 2), boundary_bytes=1e8)
    plan, cost = make(replace(case, parameters=1000, overlap=True))
    program = program_of(plan)
    timeline = simulate(plan, cost, program)
    assert timeline.source == "predicted"
    ids = [ins.id for rank in program.ranks for ins in rank]
    assert sorted(span.id for span in timeline.spans) == sorted(ids)
    start = {span.id: span.start for span in timeline.spans}
    stop = {span.id: span.stop for span in timeline.spans}
    for rank in program.ranks:
        lane_end: dict[str, int] = {}
        for ins in rank:
            assert stop[ins.id] >= start[ins.id] >= lane_end.get(ins.lane, 0)
            assert all(stop[wait] <= start[ins.id] for wait in ins.waits)
            lane_end[ins.lane] = stop[ins.id]


def test_a_missing_partner_is_named() -> None:
    plan, cost = make(Case((1.0, 1.0), (2.0, 2.0), 2, boundary_bytes=1e6))
    program = program_of(plan)
    last = tuple(ins for ins in program.ranks[1] if ins.op is not Op.SEND)
    with pytest.raises(SimulationError, match="rank 0 never ends"):
        simulate(plan, cost, Program((program.ranks[0], last)))


stage_times = st.sampled_from([0.3, 1.0, 1.7])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    schedule = draw(st.sampled_from(SCHEDULES))
    virtual = draw(st.integers(2, 3)) if schedule in WITH_VIRTUAL_STAGES else 1
    pipeline = draw(st.integers(min(2, virtual), 4 if virtual == 1 else 3))
    stages = pipeline * virtual
    one = st.lists(stage_times, min_size=stages, max_size=stages).map(tuple)
    extra = draw(st.lists(st.integers(0, 2), min_size=pipeline - 1, max_size=pipeline - 1))
    groups = draw(st.integers(1, 2 if schedule == "interleaved" else 6))
    return Case(
        forward=draw(one),
        backward=draw(one),
        microbatches=groups * (pipeline if schedule == "interleaved" else 1),
        dp=draw(st.integers(1, 2)),
        blocks=tuple(draw(st.lists(st.integers(1, 3), min_size=stages, max_size=stages))),
        boundary_bytes=draw(st.sampled_from([0.0, 1e8, 2e9])),
        parameters=draw(st.sampled_from([0, 10_000_000])),
        schedule=schedule,
        extra_warmup=tuple(extra) if schedule in WITH_WARMUP else (),
        virtual=virtual,
        overlap=draw(st.booleans()),
        latency=draw(st.sampled_from([0.0, 0.01])),
        style=draw(st.sampled_from(["direct", "ring"])),
        shared_nodes=draw(st.booleans()),
        tied=stages > 1 and draw(st.booleans()),
    )


@given(cases())
@settings(max_examples=80, deadline=None)
def test_no_step_beats_the_lower_bounds(case: Case) -> None:
    plan, cost = make(case)
    makespan = simulate(plan, cost).makespan * NS
    assert makespan >= lower_bound_seconds(plan, cost) * (1 - 1e-9) - 1e-8


@given(cases())
@settings(max_examples=30, deadline=None)
def test_a_faster_network_never_slows_a_step_that_shares_nothing(case: Case) -> None:
    """Shared links may show scheduling anomalies; a max-plus system cannot."""
    slow = simulate(*make(case, UncontendedCost)).makespan
    fast = simulate(*make(replace(case, fast=2e9, ethernet=2e9), UncontendedCost)).makespan
    assert fast <= slow + 10
