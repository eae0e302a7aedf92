"""Computation beside traffic is slower, by what the bytes say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holmes.simulate.events import simulate
from tests.simulate.plans import Case, make

ELEMENTS = 50_000_000
SENT = 4 * ELEMENTS / 2
"""Bytes that a rank exchanges for one bucket: fp32, two replicas."""
CASE = Case(forward=(2.0,), backward=(4.0,), microbatches=2, dp=2, blocks=(2,), parameters=ELEMENTS)


def seconds(case: Case, drag: float) -> float:
    plan, cost = make(case)
    calibration = replace(cost.calibration, drag_seconds_per_byte=drag)
    return simulate(plan, replace(cost, calibration=calibration)).makespan * 1e-9


def test_a_hidden_exchange_costs_its_bytes() -> None:
    case = replace(CASE, overlap=True)
    # One gather hides under the first forward, one reduction under the last backward;
    # the other two run while nothing computes.
    drag = 1e-9
    assert seconds(case, drag) - seconds(case, 0.0) == pytest.approx(2 * SENT * drag, rel=1e-6)


def test_an_exposed_exchange_costs_nothing_more() -> None:
    assert seconds(CASE, 1e-9) == seconds(CASE, 0.0)


def test_a_rank_that_waits_for_the_exchange_owes_nothing() -> None:
    # 0.1 GB/s: an exchange takes 1 s of the line, the computation beside it half of that.
    case = replace(CASE, forward=(1.0,), backward=(1.0,), fast=1e8, overlap=True)
    assert seconds(case, 1e-9) == seconds(case, 0.0)
