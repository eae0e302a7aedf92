"""Plans whose stages have degrees of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holmes.cost.model import CostModel
from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.job.resolve import resolve_job
from holmes.plan.codec import plan_from_dict, plan_to_dict
from holmes.plan.plan import Plan
from holmes.plan.program import program_of, schedule_of
from holmes.planner.meshes import unequal
from holmes.planner.request import PlanRequest
from holmes.planner.search import Search, make_plan
from holmes.runtime.capabilities import CAPABILITIES, check
from holmes.schedule.validate import validate
from holmes.simulate import step_seconds
from holmes.train.planning import request_of

MODEL = "model={preset: gpt-5m, sequence: 64, vocabulary: 2048, tied: false}"


def request(*items: str) -> PlanRequest:
    job = resolve_job(None, ["site=three-two", MODEL, *items], {})
    return request_of(job, capabilities=CAPABILITIES)


@pytest.fixture(scope="module")
def found() -> Plan:
    return make_plan(request("batch={global: 24}", "parallel={schedule: 1f1b}"))


def test_the_planner_uses_all_hosts_of_an_unequal_site(found: Plan) -> None:
    assert found.layout is None
    assert {stage.cluster: stage.layout.dp for stage in found.stages} == {"ib": 3, "roce": 2}
    assert found.world_size == 5
    check(found)
    validate(program_of(found), schedule_of(found))


def test_it_beats_every_plan_of_equal_stages(found: Plan) -> None:
    equal = Search(request("batch={global: 24}", "parallel={schedule: 1f1b}")).run()
    assert found.predicted.step_seconds < equal.predicted.step_seconds
    assert found.rejected[0].layout.startswith("equal stages: tp 1 x pp")
    assert found.rejected[0].step_seconds == equal.predicted.step_seconds


def test_a_plan_of_unequal_stages_survives_json(found: Plan) -> None:
    data = plan_to_dict(found)
    assert data["layout"] is None
    assert plan_from_dict(data, where="test") == found


def test_degrees_by_stage_are_kept() -> None:
    wanted = request("batch={global: 16}", "parallel={data: [2, 3], schedule: 1f1b}")
    plan = make_plan(wanted)
    assert [(stage.cluster, stage.layout.dp) for stage in plan.stages] == [("roce", 2), ("ib", 3)]
    assert sum(plan.samples(plan.stages[1])) == plan.round_samples
    assert 16 % plan.round_samples == 0


def test_equal_degrees_by_stage_are_a_plain_layout() -> None:
    items = ["site=demo", MODEL, "batch={global: 16}", "parallel={data: [2, 2], schedule: 1f1b}"]
    wishes = resolve_job(None, items, {}).job.wishes()
    assert (wishes.pipeline, wishes.tensor, wishes.data, wishes.meshes) == (2, 1, 2, ())


@pytest.mark.parametrize("data", ["[3, 1]", "[4, 1, 1]"])
def test_degrees_that_do_not_use_the_site_are_refused(data: str) -> None:
    with pytest.raises(ConfigError, match="no plan with stages of"):
        make_plan(request("batch={global: 24}", f"parallel={{data: {data}}}"))


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ("{data: [3, 2], pipeline: 3}", "one for each of the pipeline stages"),
        ("{data: [3, 2], tensor: [1, 1, 1]}", "one for each of the pipeline stages"),
        ("{tensor: [2, 1]}", "needs the data degrees too"),
        ("{scatter_gather: false}", "is for tensor ranks"),
        ("{data: [3, 2], scatter_gather: false}", "is for tensor ranks"),
    ],
)
def test_a_bad_section_is_one_message(parallel: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        request("batch={global: 24}", f"parallel={parallel}")


def test_what_is_fixed_keeps_stages_equal() -> None:
    assert unequal(request("batch={global: 24}"))
    for fixed in ("{pipeline: 5}", "{data: 1}", "{order: launch}"):
        assert not unequal(request("batch={global: 24}", f"parallel={fixed}"))
    able = replace(CAPABILITIES, unequal_stages=False)
    assert not unequal(replace(request("batch={global: 24}"), capabilities=able))


def test_without_scatter_each_tensor_rank_passes_everything_on() -> None:
    site = "site={name: s, clusters: [{name: a, nodes: 2, device: {kind: cpu-core, count: 2}, "
    site += "nics: [{kind: ethernet, gbit_s: 1}]}]}"
    plans = []
    for on in ("true", "false"):
        parallel = f"{{tensor: 2, pipeline: 2, data: 1, schedule: 1f1b, scatter_gather: {on}}}"
        job = resolve_job(
            None, [site, MODEL, "batch={global: 8, micro: 1}", f"parallel={parallel}"], {}
        )
        plans.append(make_plan(request_of(job, capabilities=CAPABILITIES)))
    crossing = [sum(g.bytes_per_step for g in p.groups if g.axis == "pipeline") for p in plans]
    assert crossing[1] == 2 * crossing[0]
    assert plans[0].scatter_gather and not plans[1].scatter_gather
    assert plans[0].predicted.step_seconds < plans[1].predicted.step_seconds


def test_chunks_of_tensor_collectives_are_priced_and_told() -> None:
    site = "site={name: s, clusters: [{name: a, nodes: 2, device: {kind: a100-80g-sxm, count: 8}, "
    site += "nics: [{kind: ethernet, gbit_s: 25}]}]}"

    def asked(chunks: int, schedule: str) -> PlanRequest:
        parallel = (
            f"{{tensor: 8, pipeline: 2, data: 1, tensor_chunks: {chunks}, schedule: {schedule}}}"
        )
        words = [site, "model=gpt-7.5b", "batch={global: 16}", f"parallel={parallel}"]
        return request_of(resolve_job(None, words, {}), capabilities=CAPABILITIES)

    whole = make_plan(replace(asked(1, "1f1b"), note=True))
    assert any("parallel.tensor_chunks=" in line for line in whole.explain)
    four = make_plan(asked(4, "1f1b"))
    assert four.tensor_chunks == 4
    assert four.predicted.step_seconds < 0.95 * whole.predicted.step_seconds
    assert any("tensor collectives in 4 chunks" in line for line in four.explain)
    assert any("take turns" in line for line in whole.explain)
    cost = CostModel(Topology(four.site), four.workload, asked(4, "1f1b").calibration)
    assert step_seconds(four, cost) == pytest.approx(four.predicted.step_seconds, rel=1e-6)
    with pytest.raises(ConfigError, match="tensor_chunks=4 with schedule zero-bubble"):
        make_plan(asked(4, "zero-bubble"))


def test_unequal_stages_exchange_as_they_are_asked_to() -> None:
    words = ("batch={global: 24}", "parallel={pipeline: 2, data: [3, 2], schedule: 1f1b}")
    made = make_plan(request(*words, "parallel.sharding=parameters", "parallel.quantize=int8"))
    assert (made.sharding, made.quantize) == ("parameters", "int8")
    assert any(
        "weights travel as INT8: no element is off by more than 0.39%" in s for s in made.explain
    )
    assert all(
        stop - start == 1
        for stage in made.stages
        for b in stage.buckets
        for start, stop in [b.blocks]
    )
    with pytest.raises(ConfigError, match="degrees by stage"):
        make_plan(request(*words, "parallel.sharding=three-level"))


def test_an_unequal_plan_states_the_bounds_of_its_calibration(found: Plan) -> None:
    said = found.predicted
    assert said.low < said.step_seconds < said.high
    assert said.high / said.step_seconds > said.step_seconds / said.low
