"""The reasons of a plan and the comparison of two, as a reader sees them."""

from __future__ import annotations

from dataclasses import replace

from holmes.cost.calibration import LAB
from holmes.plan.diff import diff
from holmes.plan.explain import bytes_text, seconds_text
from holmes.plan.layout import BUNDLES, Wishes
from holmes.plan.plan import Plan
from holmes.planner.request import PlanRequest
from holmes.planner.search import make_plan
from tests.planner.workloads import chain, site


def plan(placement: str, *nodes: int) -> Plan:
    wishes = Wishes(**{"pipeline": 2, "schedule": "1f1b", **BUNDLES[placement]})  # type: ignore[arg-type]
    where = site(*nodes)
    asked = PlanRequest("demo", where, chain(6), 32, 2, wishes, LAB, placement_name=placement)
    return make_plan(asked)


def test_units() -> None:
    assert [seconds_text(s) for s in (2.5, 0.0123, 4e-6, 0.0)] == [
        "2.5 s",
        "12.3 ms",
        "4 us",
        "0 us",
    ]
    assert [bytes_text(b) for b in (12, 4_050_000, 2e9)] == ["12 B", "4.05 MB", "2 GB"]


def test_every_decision_is_told() -> None:
    made = plan("holmes", 2, 2)
    text = "\n".join(made.explain)
    assert "tp 1 x pp 2 x dp 2 on 4 devices" in text
    assert "stage 0 on cluster c0 (c0-0, c0-1)" in text
    assert "data.s0 (ranks 0, 1): infiniband via ib0" in text
    assert "pipeline.0-2 (ranks 0, 2): ethernet via eth0" in text
    assert "launch order equals cluster order here" in text
    assert "partition `exact`" in text and "extra warm-up" in text
    assert "rejected" in text
    for kind, count in made.predicted.bytes_per_step.items():
        assert f"{bytes_text(count)} on {kind}" in text


def test_launch_order_is_only_called_equal_where_it_is() -> None:
    assert not any("launch order equals" in line for line in plan("scattered", 2, 2).explain)
    assert not any("launch order equals" in line for line in plan("holmes", 4).explain)


def test_equal_stages_are_told_once() -> None:
    where = site(8)
    asked = PlanRequest("deep", where, chain(16), 32, 1, Wishes(pipeline=8), LAB)
    lines = [line for line in make_plan(asked).explain if "transformer block" in line]
    assert any(line.strip().startswith("stages ") for line in lines)
    assert len(lines) < 8


def test_diff_says_how_much_and_why() -> None:
    holmes, megatron = plan("holmes", 2, 2), plan("megatron", 2, 2)
    lines = diff(holmes, megatron)
    ratio = megatron.predicted.step_seconds / holmes.predicted.step_seconds
    assert lines[0].startswith(f"holmes is {ratio:.2f} times faster than megatron")
    assert any("data.s0 runs over infiniband instead of ethernet" in line for line in lines)
    assert any("under backward" in line for line in lines)
    backwards = diff(megatron, holmes)
    assert f"{ratio:.2f} times slower" in backwards[0]
    assert any("data.s0 runs over ethernet instead of infiniband" in line for line in backwards)


def test_diff_of_orders() -> None:
    holmes, scattered = plan("holmes", 2, 2), plan("scattered", 2, 2)
    assert any(
        "2 of 2 stages stay inside one cluster, instead of 0 of 2" in line
        for line in diff(holmes, scattered)
    )


def test_diff_of_equal_plans() -> None:
    made = plan("holmes", 2, 2)
    assert diff(made, replace(made)) == [
        diff(made, made)[0],
    ]
    assert "the same plan" in diff(made, made)[0]
