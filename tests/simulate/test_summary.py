"""Bubbles and exposed communication, read off timelines with known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holmes.simulate import simulate, summarize
from tests.simulate.plans import Case, make


def test_bubble_fraction_of_equal_stages() -> None:
    for p, m in ((2, 4), (4, 8)):
        summary = summarize(simulate(*make(Case((1.0,) * p, (2.0,) * p, m))))
        for fraction in summary.bubble_fraction.values():
            assert fraction == pytest.approx((p - 1) / (m + p - 1), rel=1e-6)


def test_exchange_is_exposed_without_overlap_and_hidden_with_it() -> None:
    case = Case((2.0,), (4.0,), 2, dp=2, blocks=(8,), parameters=25_000_000)
    plain = summarize(simulate(*make(case)))
    hidden = summarize(simulate(*make(replace(case, overlap=True))))
    lane = "comm:data.s0"
    for rank in (0, 1):
        assert plain.transfer_seconds[rank][lane] == pytest.approx(0.8, rel=1e-6)
        assert plain.exposed_seconds[rank][lane] == pytest.approx(0.8, rel=1e-6)
        assert hidden.transfer_seconds[rank][lane] == pytest.approx(0.8, rel=1e-6)
        assert hidden.exposed_seconds[rank][lane] == pytest.approx(0.1, rel=1e-6)


def test_waiting_for_a_partner_is_no_transfer() -> None:
    """The last stage posts its receive at once; only the transfer itself counts."""
    case = Case((1.0, 1.0), (2.0, 2.0), 1, boundary_bytes=0.25e9)
    summary = summarize(simulate(*make(case)))
    assert summary.transfer_seconds[1]["comm:pipeline.0-1.down"] == pytest.approx(0.25, rel=1e-6)
    assert summary.step_seconds == pytest.approx(6.5, rel=1e-6)
