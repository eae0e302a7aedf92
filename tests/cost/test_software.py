"""What software adds to computation: by hand, and the same in both engines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holmes.cost.calibration import BlockTime, Software
from holmes.cost.software import (
    StageExtras,
    exchange_seconds,
    gathered_over_parameters,
    stage_extras,
)
from holmes.plan.layout import Sharding
from holmes.plan.plan import Plan
from holmes.plan.program import stage_shape
from holmes.schedule.instruction import Op
from holmes.simulate import simulate, step_seconds
from tests.simulate.plans import Case, DictatedCost, UncontendedCost, make

CASE = Case(
    (1.0, 1.0), (2.0, 2.0), 8, dp=2, blocks=(3, 2), boundary_bytes=0.2e9, parameters=50_000_000
)


def with_terms(
    case: Case, software: Software = "megatron", **terms: float
) -> tuple[Plan, DictatedCost]:
    plan, cost = make(case, UncontendedCost)
    calibration = replace(
        cost.calibration,
        without_overlap=software,
        compute=replace(cost.calibration.compute, **terms),
    )
    return plan, replace(cost, calibration=calibration)


@pytest.mark.parametrize("sharding", ["none", "optimizer", "parameters"])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
@pytest.mark.parametrize("software", ["holmes", "megatron"])
def test_both_engines_add_the_same(
    sharding: Sharding, overlap: bool, schedule: str, software: Software
) -> None:
    case = replace(CASE, sharding=sharding, overlap=overlap, schedule=schedule, latency=0.01)
    plan, cost = with_terms(
        case, software, transfer_seconds=0.05, overlap_slowdown=0.3, straggler=0.01
    )
    events = simulate(plan, cost).makespan * 1e-9
    closed = step_seconds(plan, cost)
    if sharding == "parameters" and not overlap:
        # The lists keep a bucket whole from its last forward to a backward that follows at once.
        assert events <= closed <= 1.1 * events
    else:
        assert closed == pytest.approx(events, rel=1e-6)


def test_waiting_for_transfers_costs_each_microbatch() -> None:
    """Two stages in balance: both wait at once, 0.2 s a micro-batch and to fill."""
    case = replace(CASE, dp=1, parameters=0)
    ahead, late = (step_seconds(*with_terms(case, software)) for software in ("holmes", "megatron"))
    slower = step_seconds(*with_terms(case, "megatron", transfer_seconds=0.1))
    free = step_seconds(*with_terms(replace(case, boundary_bytes=0.0)))
    assert free == pytest.approx(9 * 3.0, rel=1e-3)
    assert ahead < late < slower
    assert late - free == pytest.approx(9 * 0.2)
    assert slower - late == pytest.approx(8 * 2 * 0.1, rel=0.6)
    overlapped = with_terms(replace(case, overlap=True), "megatron")
    assert step_seconds(*overlapped) == pytest.approx(ahead)


def test_an_interleaved_run_waits_more_often_for_a_smaller_bubble() -> None:
    plain = Case((2.0, 2.0), (4.0, 4.0), 8, boundary_bytes=1.0, parameters=0)
    chunked = Case(
        (1.0,) * 4, (2.0,) * 4, 8, boundary_bytes=1.0, parameters=0,
        schedule="interleaved", virtual=2,
    )  # fmt: skip
    one, two = (step_seconds(*with_terms(case)) for case in (plain, chunked))
    assert one == pytest.approx(9 * 6.0) and two == pytest.approx(8 * 6.0 + 3.0)
    cost = [
        step_seconds(*with_terms(case, transfer_seconds=0.01)) - free
        for case, free in ((plain, one), (chunked, two))
    ]
    assert cost[1] > 1.5 * cost[0]


def test_sharded_parameters_hide_under_compute_until_they_are_slower() -> None:
    extras = StageExtras(exchanges={(0, 1): (0.1, 0.2), (1, 2): (4.0, 8.0)}, slowdown=0.5)
    time = BlockTime(1.0, 2.0)
    assert extras.added(time, (0, 1), (0, 2)) == BlockTime(1.05, 2.15)
    assert extras.added(time, (1, 2), (0, 2)) == BlockTime(4.0, 12.0)
    both = extras.added(time, (0, 2), (0, 2))
    assert both == BlockTime(4.1, pytest.approx(12.3))


def test_a_wait_belongs_to_the_first_and_the_last_blocks_of_a_stage() -> None:
    extras = StageExtras(2.0, down=0.25, up=0.5)
    time = BlockTime(1.0, 2.0)
    assert extras.added(time, (0, 1), (0, 3)) == BlockTime(2.25, 4.0)
    assert extras.added(time, (1, 2), (0, 3)) == BlockTime(2.0, 4.0)
    assert extras.added(time, (2, 3), (0, 3)) == BlockTime(2.0, 4.5)


def test_more_devices_wait_longer_for_one_another() -> None:
    plan, cost = with_terms(CASE, straggler=0.01)
    stage = plan.stages[0]
    assert stage_extras(plan, cost.network(plan.rank_map), stage).factor == pytest.approx(1.02)


def test_whole_gradients_are_wider_than_parameters() -> None:
    plan, cost = with_terms(replace(CASE, sharding="none"))
    wide = replace(plan, workload=replace(plan.workload, gradient_bytes=4, parameter_bytes=2))
    assert gathered_over_parameters(wide, cost.calibration) == 2.0
    shape = stage_shape(wide, wide.stages[0])
    network = cost.network(plan.rank_map)
    gather, reduce = (
        exchange_seconds(wide, network, shape, op, shape.buckets[0])
        for op in (Op.ALL_GATHER, Op.REDUCE_SCATTER)
    )
    assert gather == pytest.approx(reduce)
    sharded = replace(wide, sharding="optimizer")
    assert gathered_over_parameters(sharded, cost.calibration) == 1.0
    assert exchange_seconds(sharded, network, shape, Op.ALL_GATHER, shape.buckets[0]) < gather
