"""The cheap parts of every benchmark: rates, jobs, plans."""

from __future__ import annotations

import pytest

import arms
import demo
import losing
import overlap
import partition
import placement_virtual
import prediction
import setting
import three_level
from holmes.events.span import Span, Timeline
from holmes.hardware.site import Fabric
from holmes.plan.plan import Plan
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES
from holmes.train.planning import request_of


@pytest.fixture(scope="module")
def rates() -> dict[str, float]:
    return setting.solve_rates()


def test_solved_rates_give_the_papers_throughputs(rates: dict[str, float]) -> None:
    steps = {
        kind: setting.planned(setting.job(setting.one_cluster(rates, kind), setting.MEGATRON))
        for kind in setting.THROUGHPUT
    }
    best = steps["infiniband"].predicted.step_seconds
    for kind, wanted in setting.THROUGHPUT.items():
        assert best / steps[kind].predicted.step_seconds == pytest.approx(wanted, rel=0.01)


def test_exchange_is_the_wanted_share_of_the_infiniband_step(rates: dict[str, float]) -> None:
    plan = setting.planned(setting.job(setting.one_cluster(rates, "infiniband"), setting.MEGATRON))
    data = next(group for group in plan.groups if group.axis == "data")
    seconds = data.bytes_per_step / len(data.ranks) * 8 / (rates["infiniband"] * 1e9)
    share = seconds / plan.predicted.step_seconds
    assert share == pytest.approx(setting.EXCHANGE_SHARE, rel=0.02)


def test_roce_holds_the_last_stage(rates: dict[str, float]) -> None:
    plan = setting.planned(setting.job(setting.hybrid_site(rates), setting.HOLMES))
    assert [stage.cluster for stage in plan.stages] == ["c0", "c1"]
    assert _fabric(plan, "data", 1) is Fabric.ROCE


def test_arms_add_one_part_at_a_time(rates: dict[str, float]) -> None:
    site = setting.hybrid_site(rates)
    plans = {
        name: setting.planned(setting.job(site, parallel))
        for name, parallel in placement_virtual.PARTS.items()
    }
    assert _fabric(plans["megatron"], "data", 0) is Fabric.ETHERNET
    assert _fabric(plans["+ per-group transport"], "data", 0) is Fabric.INFINIBAND
    assert plans["+ partition"].partition == "exact"
    assert not plans["+ extra warm-up"].overlap
    assert plans["+ overlap = holmes"].overlap
    assert plans["megatron with overlap"].overlap


def test_losing_cases_stand_against_their_baseline(rates: dict[str, float]) -> None:
    for case, jobs in losing.cases(rates).items():
        slow, fast = (setting.planned(job).predicted.step_seconds for job in jobs.values())
        if case.endswith("micro-batches"):
            assert slow / fast > 1.1
        else:
            assert slow / fast == pytest.approx(1.0, abs=0.05)


def test_only_the_cut_differs_between_partition_arms() -> None:
    plans = {rule: _lab_plan(partition.job(rule)) for rule in partition.RULES}
    counts = {rule: [b - a for a, b in (s.blocks for s in p.stages)] for rule, p in plans.items()}
    assert counts["even"][0] == counts["even"][1]
    assert counts["exact"][0] > counts["exact"][1]
    assert len({(p.order, p.transport, p.overlap, p.rank_map) for p in plans.values()}) == 1
    assert len({p.schedule.extra_warmup for p in plans.values()}) == 1


@pytest.mark.parametrize("site", prediction.SITES)
@pytest.mark.parametrize("placement", prediction.PLACEMENTS)
def test_prediction_jobs_can_be_planned(site: str, placement: str) -> None:
    plan = _lab_plan(prediction.job(prediction.SITES[site], placement))
    assert plan.placement_name == placement
    assert (plan.layout.pp, plan.layout.dp) == (2, 2)


def test_an_arm_again_is_the_same_job() -> None:
    jobs = arms.with_again({"holmes": demo.job("holmes")}, "holmes")
    assert list(jobs) == ["holmes", "holmes again"]
    assert jobs["holmes"] is jobs["holmes again"]


def test_resolution_compares_an_arm_with_itself() -> None:
    found = {"a": {"seconds": [1.0, 2.0]}, "a again": {"seconds": [2.0, 4.0]}}
    assert arms.resolution(found)["median"] == 0.5


def test_exposure_counts_what_no_computation_hides() -> None:
    spans = (
        _span(1, "compute", "backward", 0, 10),
        _span(2, "comm:data.s0", "reduce_scatter", 5, 15),
        _span(3, "comm:pipeline.0-1.down", "send", 0, 40),
    )
    found = overlap.exposure(Timeline("measured", spans))
    assert found == {"transfer": pytest.approx(10e-9), "exposed": pytest.approx(5e-9)}


@pytest.mark.parametrize("backward_ms", overlap.BACKWARD_MS.values())
def test_overlap_is_predicted_to_gain(backward_ms: int) -> None:
    jobs = {name: overlap.job(backward_ms, on) for name, on in overlap.ARMS.items()}
    plans = {name: setting.planned(job) for name, job in jobs.items()}
    assert plans["overlap"].sharding == "optimizer"
    assert plans["overlap"].predicted.step_seconds < plans["no overlap"].predicted.step_seconds


def test_three_levels_are_predicted_to_gain_where_the_slow_level_binds() -> None:
    plans = {
        case: {name: setting.planned(job) for name, job in jobs.items()}
        for case, jobs in three_level.cases().items()
    }
    slow, fast = plans[three_level.SLOW_CASE], plans[three_level.FAST_CASE]
    assert {name: plan.layout.shard for name, plan in slow.items() if "int" not in name} == {
        three_level.FLAT: (),
        "two levels, of a host": (2,),
        "two levels, of a cluster": (4,),
        three_level.THREE: (2, 4),
    }
    best = slow[three_level.THREE].predicted
    assert slow[three_level.FLAT].predicted.step_seconds > 1.3 * best.step_seconds
    assert (
        best.bytes_per_step["ethernet"]
        < slow[three_level.FLAT].predicted.bytes_per_step["ethernet"] / 10
    )
    flat, three = (
        fast[name].predicted.step_seconds for name in (three_level.FLAT, three_level.THREE)
    )
    assert flat == pytest.approx(three, rel=0.05)


def _fabric(plan: Plan, axis: str, stage: int) -> Fabric:
    ranks = plan.stages[stage].ranks
    group = next(g for g in plan.groups if g.axis == axis and g.ranks == ranks)
    return group.transport.fabric


def _lab_plan(job: arms.ResolvedJob) -> Plan:
    return make_plan(request_of(job, capabilities=CAPABILITIES))


def _span(id_: int, lane: str, op: str, start: int, stop: int) -> Span:
    return Span(id_, 0, 0, lane, op, 0, None, start, stop)
