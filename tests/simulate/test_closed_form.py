"""The recurrence against the event simulator, and against itself on arrays."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from holmes.plan.program import program_of
from holmes.schedule import gpipe, one_f_one_b
from holmes.schedule.instruction import COMPUTE_OPS, Op
from holmes.simulate import (
    PartTimes,
    PipelineTimes,
    StageTimes,
    pipeline_seconds,
    simulate,
    step_seconds,
)
from tests.simulate.plans import Case, UncontendedCost, make
from tests.simulate.test_events import cases

AGREE = 1e-6


@given(cases())
@settings(max_examples=120, deadline=None)
def test_equals_events_where_nothing_is_shared(case: Case) -> None:
    plan, cost = make(replace(case, shared_nodes=False), UncontendedCost)
    events = simulate(plan, cost).makespan * 1e-9
    assert step_seconds(plan, cost) == pytest.approx(events, rel=AGREE, abs=1e-8)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("p", "m"), itertools.product([1, 2], [1, 3, 8]))
def test_equals_events_on_the_real_network_of_one_cut(p: int, m: int, overlap: bool) -> None:
    """One cut on Ethernet and one data group per stage on its own card: no two share."""
    for cut, extra, slow in itertools.product([0.0, 0.4e9, 2e9], [0, 1, 2], [1.0, 2.5]):
        case = Case(
            (1.0, slow)[:p],
            (2.0, 2 * slow)[:p],
            m,
            dp=2,
            blocks=(3, 2)[:p],
            boundary_bytes=cut,
            parameters=50_000_000,
            extra_warmup=(extra,) * (p - 1),
            overlap=overlap,
            latency=0.01,
        )
        plan, cost = make(case)
        events = simulate(plan, cost).makespan * 1e-9
        assert step_seconds(plan, cost) == pytest.approx(events, rel=AGREE)


def test_a_measured_backward_in_two_parts_takes_their_time() -> None:
    """Equal to the events; both parts of an instruction pair are as measured."""
    seconds = {}
    for schedule in ("1f1b", "zero-bubble"):
        plan, cost = make(Case((1.0,) * 2, (2.0,) * 2, 3, schedule=schedule), UncontendedCost)
        times = tuple(replace(time, weight=1.5, dividing=1.0) for time in cost.times)
        before, cost = step_seconds(plan, cost), replace(cost, times=times)
        seconds[schedule] = step_seconds(plan, cost)
        events = simulate(plan, cost)
        assert seconds[schedule] == pytest.approx(events.makespan * 1e-9, rel=AGREE)
        if schedule == "1f1b":
            assert seconds[schedule] == before
    whole = cost.block_time(0, cost.topology.devices[0], 1)
    taken = {ins.op: cost.compute_seconds(plan, 0, ins) for ins in program_of(plan).ranks[0]
             if ins.op in COMPUTE_OPS}  # fmt: skip
    assert taken[Op.WEIGHT_GRADIENT] == pytest.approx(1.5)
    assert taken[Op.INPUT_GRADIENT] == pytest.approx(whole.backward + 1.0 - 1.5)


@given(cases())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_is_within_reach_of_events_where_cards_are_shared(case: Case) -> None:
    """Sharing between cuts and groups is left out, so it may be too low, but not by much."""
    plan, cost = make(case)
    events = simulate(plan, cost).makespan * 1e-9
    assert events * 0.5 <= step_seconds(plan, cost) <= events * 1.25 + 1e-8


def test_arrays_give_every_candidate_at_once() -> None:
    rng = np.random.default_rng(3)
    p, m, n = 3, 5, 7
    forward = rng.uniform(0.5, 2.0, (n, p))
    cuts = rng.uniform(0.0, 1.0, (n, p - 1))
    for schedule, overlap in itertools.product((gpipe(p, m), one_f_one_b(p, m, 1)), (False, True)):

        def times(of: np.ndarray, cut: np.ndarray) -> PipelineTimes:
            stages = tuple(
                StageTimes((PartTimes(0.2, of[..., s], 2 * of[..., s], 0.3),), 0.1)
                for s in range(p)
            )
            both = tuple(cut[..., c] for c in range(p - 1))
            return PipelineTimes(stages, both, both, norms=0.01)

        together = pipeline_seconds(schedule, times(forward, cuts), overlap=overlap)
        for k in range(n):
            alone = pipeline_seconds(schedule, times(forward[k], cuts[k]), overlap=overlap)
            assert together[k] == pytest.approx(float(alone), rel=1e-12)
