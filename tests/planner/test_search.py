"""The whole planner: choices, refusals with their reasons, and agreement with its parts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from holmes.cost.calibration import LAB
from holmes.cost.model import CostModel
from holmes.errors import ConfigError
from holmes.hardware.site import Fabric, Site
from holmes.hardware.topology import Topology
from holmes.plan.capabilities import Capabilities, refusals
from holmes.plan.codec import plan_from_dict, plan_to_dict
from holmes.plan.layout import BUNDLES, Layout, Wishes
from holmes.plan.plan import Plan
from holmes.plan.program import program_of, schedule_of
from holmes.planner.request import PlanRequest
from holmes.planner.search import make_plan, make_plans
from holmes.schedule import Op, validate
from holmes.simulate.events import simulate
from holmes.workload import Workload
from tests.planner.workloads import chain, site

RUNTIME = Capabilities(
    axes=frozenset({"pipeline", "data"}),
    schedules=frozenset({"gpipe", "1f1b"}),
    shardings=frozenset({"none", "optimizer"}),
    recompute=frozenset({"none", "full"}),
)


def request(
    where: Site,
    model: Workload,
    *,
    batch: int = 32,
    micro: int | None = 2,
    capabilities: Capabilities | None = RUNTIME,
    **wishes: Any,
) -> PlanRequest:
    return PlanRequest(
        "test", where, model, batch, micro, Wishes(**wishes), LAB, capabilities=capabilities
    )


def bundle(name: str, where: Site, model: Workload, **wishes: Any) -> Plan:
    merged = {**BUNDLES[name], **wishes}
    return make_plan(
        replace(request(where, model, pipeline=2, data=2, **merged), placement_name=name)
    )


@pytest.mark.parametrize("name", ["holmes", "megatron", "scattered"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_plan_runs_as_it_says(name: str, tied: bool) -> None:
    """The digest checks, the lists are sound, every group they use is in the plan."""
    plan = bundle(name, site(2, 2), chain(6, tied=tied))
    program = program_of(plan)
    validate(program, schedule_of(plan))
    used = {ins.group for rank in program.ranks for ins in rank if ins.group}
    assert used == set(plan.group_by_name)
    assert refusals(plan, RUNTIME) == []
    assert plan_from_dict(plan_to_dict(plan), where="here") == plan


def test_holmes_uses_each_fabric_and_megatron_one() -> None:
    model = chain(6)
    holmes, megatron, scattered = (
        bundle(name, site(2, 2), model) for name in ("holmes", "megatron", "scattered")
    )
    fabrics = {name: group.transport.fabric for name, group in holmes.group_by_name.items()}
    assert fabrics["data.s0"] is Fabric.INFINIBAND
    assert fabrics["data.s1"] is Fabric.ROCE
    assert fabrics["pipeline.0-2"] is fabrics["world"] is Fabric.ETHERNET
    assert {group.transport.fabric for group in megatron.groups} == {Fabric.ETHERNET}
    assert scattered.rank_map == (0, 2, 1, 3)
    assert scattered.group_by_name["data.s0"].transport.fabric is Fabric.ETHERNET
    assert holmes.predicted.step_seconds < megatron.predicted.step_seconds
    assert holmes.overlap and not megatron.overlap
    assert set(megatron.predicted.bytes_per_step) == {"ethernet"}


def test_bytes_follow_the_formulas() -> None:
    model = chain(6)
    plan = bundle("megatron", site(2, 2), model)
    gradients = sum(block.parameters for block in model.blocks) * 4
    data = sum(group.bytes_per_step for group in plan.groups if group.axis == "data")
    assert data == 2 * gradients  # reduce-scatter and all-gather, two members each
    cut = sum(group.bytes_per_step for group in plan.groups if group.axis == "pipeline")
    assert cut == 2 * 2 * 8 * 64_000 * 2  # directions, replicas, micro-batches, bytes, samples
    norms = next(ins.bytes for ins in program_of(plan).ranks[0] if ins.group == "world")
    assert norms >= 8 * sum(block.tensors for block in model.blocks)
    assert plan.group_by_name["world"].bytes_per_step == 2 * 3 * norms
    assert plan.predicted.bytes_per_step == {"ethernet": data + cut + 2 * 3 * norms}


def test_members_on_one_node_need_no_nic() -> None:
    """Two devices a node: of a data group of four, a third of the pairs stay inside."""
    plan = make_plan(request(site(2, 2, devices=2), chain(6), pipeline=2, data=4))
    group = plan.group_by_name["data.s0"]
    carried = plan.predicted.bytes_per_step["infiniband"]
    assert carried == round(group.bytes_per_step * 8 / 12)


def test_prediction_is_the_simulators() -> None:
    plan = bundle("holmes", site(2, 2), chain(6))
    cost = CostModel(Topology(plan.site), plan.workload, LAB)
    assert plan.predicted.step_seconds == simulate(plan, cost).makespan * 1e-9
    assert plan.predicted.low < plan.predicted.step_seconds < plan.predicted.high
    assert plan.predicted.samples_per_second == pytest.approx(32 / plan.predicted.step_seconds)
    assert set(plan.predicted.memory_bytes) == {0, 1, 2, 3}
    assert 0 < plan.predicted.bubble_fraction < 1


def test_the_cut_is_the_best_of_all_cuts() -> None:
    """Two stages, one cluster at half speed: no other border simulates faster."""
    where = site(2, 2, speeds=(1.0, 0.5))
    plan = make_plan(request(where, chain(8), pipeline=2, data=2, schedule="1f1b"))
    cost = CostModel(Topology(where), plan.workload, LAB)

    def seconds(cut: int) -> float:
        stages = tuple(
            replace(stage, blocks=blocks, buckets=())
            for stage, blocks in zip(plan.stages, ((0, cut), (cut, 10)), strict=True)
        )
        other = replace(plan, stages=stages, overlap=False)
        return simulate(other, cost, program_of(other, check=False)).makespan * 1e-9

    slow = next(stage for stage in plan.stages if stage.cluster == "c1")
    fast = next(stage for stage in plan.stages if stage.cluster == "c0")
    assert fast.blocks[1] - fast.blocks[0] > slow.blocks[1] - slow.blocks[0]
    best = min(seconds(cut) for cut in range(1, 10))
    assert seconds(plan.stages[0].blocks[1]) <= best * 1.02


def test_a_slow_cut_gets_extra_warmup() -> None:
    """Transfers of about a third of a stage's time: warm-up pays, unless it is fixed at 0."""
    where = site(2, 2, gbit_s=(1.0, 1.0, 0.2))
    model = chain(6, output_bytes=500_000.0)
    free = make_plan(request(where, model, pipeline=2, data=2, schedule="1f1b"))
    fixed = make_plan(request(where, model, pipeline=2, data=2, schedule="1f1b", extra_warmup=0))
    assert free.schedule.extra_warmup_per_cut[0] >= 1
    assert fixed.schedule.extra_warmup_per_cut == (0,)
    assert free.predicted.step_seconds < 0.95 * fixed.predicted.step_seconds


def test_forced_order() -> None:
    plan = make_plan(request(site(2, 2), chain(6), pipeline=2, data=2, rank_map=(0, 2, 3, 1)))
    assert plan.rank_map == (0, 2, 3, 1)
    assert plan.stages[0].cluster == "c0+c1"


def test_free_search_is_no_worse_than_any_fixed_layout() -> None:
    where, model = site(2, 2), chain(6)
    free = make_plan(request(where, model))
    for pipeline in (1, 2, 4):
        fixed = make_plan(request(where, model, pipeline=pipeline))
        assert free.predicted.step_seconds <= fixed.predicted.step_seconds * 1.02
    assert free.search.enumerated >= free.search.feasible > 0
    assert free.search.pruned + free.search.evaluated == free.search.enumerated
    assert free.rejected


def test_pruned_optimum_is_the_true_one() -> None:
    """Every layout, micro-batch and schedule fixed in turn: none beats the search by 2 %."""
    where = site(1, 2, speeds=(1.0, 0.7))
    model = chain(5)
    free = make_plan(request(where, model, batch=12, micro=None))
    for pipeline, micro, schedule in product((1, 3), (1, 2, 4), ("1f1b", "gpipe")):
        fixed = make_plan(
            request(where, model, batch=12, micro=micro, pipeline=pipeline, schedule=schedule)
        )
        assert free.predicted.step_seconds <= 1.02 * fixed.predicted.step_seconds


def test_the_same_request_gives_the_same_plan() -> None:
    first, second = (make_plan(request(site(2, 2), chain(6))) for _ in range(2))
    assert replace(first, search=second.search, explain=()) == replace(second, explain=())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pipeline": 3}, "does not use the 4 devices"),
        ({"pipeline": 2, "data": 4}, "multiply to 8"),
        ({"pipeline": 2, "data": 1, "tensor": 1}, "no device may be left idle"),
        ({"tensor": 2}, "parallel.tensor: 2 cannot be run"),
        ({"tensor": 2, "capabilities": None}, "do not fit inside a node of 1"),
        ({"context": 2}, "parallel.context: 2 cannot be run"),
        ({"schedule": "interleaved"}, "available: 1f1b, gpipe"),
        ({"sharding": "parameters"}, "parallel.sharding: parameters cannot be run"),
        ({"recompute": "selective"}, "parallel.recompute: selective cannot be run"),
        ({"schedule": "gpipe", "extra_warmup": 1}, "no effect with schedule gpipe"),
        ({"rank_map": (0, 1, 1, 2)}, "names device 1 twice"),
        ({"pipeline": 2, "data": 2, "batch": 30}, "use batch.global=28 or 32"),
        ({"pipeline": 1, "batch": 3, "micro": 1}, "use batch.global=4"),
    ],
)
def test_refusals_say_what_to_do(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_plan(request(site(2, 2), chain(6), **changes))
    assert caught.value.exit_code == 78
    assert caught.value.where


def test_more_stages_than_blocks() -> None:
    with pytest.raises(ConfigError, match="8 pipeline stages for a model of 4 blocks"):
        make_plan(request(site(4, 4), chain(2), pipeline=8))


def test_heads_not_divisible() -> None:
    where = site(1, devices=8, kind="a100-80g-sxm")
    with pytest.raises(ConfigError, match="6 attention heads do not divide over 4"):
        make_plan(request(where, chain(6, heads=6), tensor=4, capabilities=None))


def test_a_cluster_nobody_reaches() -> None:
    with pytest.raises(ConfigError, match="no network joins cluster 'c0' and cluster 'c1'"):
        make_plan(request(site(2, 2, linked=False), chain(6)))


def test_nothing_fits_in_memory() -> None:
    data = site(2, 2).model_dump(mode="json")
    for cluster in data["clusters"]:
        cluster["device"]["memory_gb"] = 0.01
    with pytest.raises(ConfigError, match="does not fit in memory"):
        make_plan(request(Site.model_validate(data), chain(6)))


def test_recompute_is_chosen_when_memory_is_short() -> None:
    """Room between full recomputation and none."""
    data = site(2, 2).model_dump(mode="json")
    for cluster in data["clusters"]:
        cluster["device"]["memory_gb"] = 0.64
    model = chain(6)
    blocks = tuple(
        replace(b, activation_bytes={"none": 5e6, "selective": 5e6, "full": 1e5})
        for b in model.blocks
    )
    model = replace(model, blocks=blocks)
    roomy = make_plan(request(site(2, 2), model, pipeline=2, data=2))
    tight = make_plan(request(Site.model_validate(data), model, pipeline=2, data=2))
    assert roomy.recompute == "none"
    assert tight.recompute == "full"
    assert max(tight.predicted.memory_bytes.values()) <= 0.64e9


def test_tensor_ranks_are_planned_where_the_runtime_allows_them() -> None:
    where = site(1, 1, devices=4, kind="a100-80g-sxm", gbit_s=(100.0, 100.0, 1.0))
    plan = make_plan(request(where, chain(6), tensor=2, pipeline=2, data=2, capabilities=None))
    assert plan.layout == Layout(tp=2, pp=2, dp=2)
    program = program_of(plan)
    validate(program, schedule_of(plan))
    assert {ins.group for rank in program.ranks for ins in rank if ins.group} <= set(
        plan.group_by_name
    )
    assert plan.group_by_name["data.s1.t1"].ranks == (5, 7)
    assert plan.group_by_name["tensor.2"].ranks == (2, 3)
    sent = sum(ins.bytes for ins in program.ranks[0] if ins.op is Op.SEND)
    assert sent == plan.schedule.microbatches * 64_000 * 2 // 2


def test_what_is_missing_for_the_best_plan() -> None:
    where = site(1, devices=8, kind="a100-80g-sxm", gbit_s=(100.0, 100.0, 1.0))
    model = chain(6, layer_parameters=50_000_000, flops=1e12)
    narrow = replace(RUNTIME, axes=frozenset({"pipeline"}))
    found = make_plans(request(where, model, batch=8, micro=1, pipeline=1, capabilities=None))
    assert found.missing == () and found.unrestricted is None
    found = make_plans(request(where, model, batch=8, micro=1, capabilities=narrow))
    assert found.plan.layout.tp == found.plan.layout.dp == 1
    assert found.unrestricted is not None
    assert found.unrestricted.predicted.step_seconds < found.plan.predicted.step_seconds
    assert any("parallelism" in line for line in found.missing)
    assert any("missing in the runtime" in line for line in found.plan.explain)
