"""Expert ranks: who holds what, what is sent, and that search, prices and events agree."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from holmes.cost.calibration import DEFAULT
from holmes.cost.experts import exchange_seconds
from holmes.cost.memory import memory_parts, stage_parts
from holmes.cost.model import CostModel
from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.models.mixtral.describe import MixtralConfig, workload
from holmes.plan.explain import layout_text
from holmes.plan.layout import Layout, Wishes
from holmes.plan.plan import Batch, Plan
from holmes.plan.program import program_of
from holmes.planner.candidates import Choice, Shape
from holmes.planner.draft import Draft, draft
from holmes.planner.estimates import Estimates
from holmes.planner.ground import Ground
from holmes.planner.groups import expert_bytes
from holmes.planner.megatron import arguments, notes
from holmes.planner.placement import rank_maps
from holmes.planner.pricing import Pricing
from holmes.planner.request import PlanRequest
from holmes.planner.search import Search, make_plan
from holmes.planner.settings import settings_of
from holmes.planner.traffic import with_closed_bytes
from holmes.runtime.capabilities import CAPABILITIES
from holmes.schedule.instruction import Op
from holmes.simulate.events import simulate
from holmes.workload.segments import Segment
from tests.planner.workloads import site

SIZES = MixtralConfig(4, 256, 8, 512, 1000, key_heads=8, ffn=512, experts=8, top_k=2)
MODEL = workload(SIZES, "mixed")
GPUS = {"kind": "a100-80g-sxm", "gbit_s": (800, 400, 25)}
ONE_WAY = 2 * 512 * 256 * 2
"""Bytes of one sample's tokens to their two experts each."""


def asked(*nodes: int, devices: int = 4, batch: int = 32, **wishes: Any) -> PlanRequest:
    where = site(*nodes, devices=devices, **GPUS)
    return PlanRequest("test", where, MODEL, batch, None, Wishes(**wishes), DEFAULT)


def planned(ep: int = 2, **wishes: Any) -> Plan:
    fixed = {"tensor": 1, "pipeline": 2, "data": 4, "schedule": "1f1b", "expert": ep}
    return make_plan(asked(2, **{**fixed, **wishes}))


@pytest.mark.parametrize("cp", [1, 2])
def test_groups_are_neighbours_and_experts_are_summed_by_the_ranks_that_hold_the_same(
    cp: int,
) -> None:
    plan = planned(pipeline=1, context=cp, data=8 // cp)
    groups = {group.name: group for group in plan.groups}
    expert = [g.ranks for g in plan.groups if g.axis == "expert"]
    assert expert == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert groups["data.s0"].ranks == tuple(range(8))
    assert groups["data.s0.e0"].ranks == (0, 2, 4, 6)
    assert groups["data.s0.e1"].ranks == (1, 3, 5, 7)
    assert {g.transport.name for g in plan.groups if g.axis == "expert"} == {"intra-node"}


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("ep", [2, 4])
def test_bytes_of_an_expert_group_are_their_closed_form(ep: int, recompute: Any) -> None:
    """4 x top_k x tokens x hidden x width x (ep-1)/ep of each rank, layer and micro-batch; two
    more of them where the forward is repeated."""
    plan = planned(ep, recompute=recompute)
    passes = 6 if recompute == "full" else 4
    for group in (g for g in plan.groups if g.axis == "expert"):
        stage = next(s for s in plan.stages if group.ranks[0] in s.ranks)
        layers = sum(b.kind == "transformer" for b in MODEL.blocks[slice(*stage.blocks)])
        each = passes * ONE_WAY * plan.batch.micro * (ep - 1) // ep
        assert group.bytes_per_step == ep * layers * plan.schedule.microbatches * each


@pytest.mark.parametrize("sharding", ["none", "optimizer", "gradients", "parameters"])
@pytest.mark.parametrize("ep", [2, 4])
def test_gradients_of_experts_travel_among_dp_over_ep_replicas(ep: int, sharding: Any) -> None:
    """Bytes of the data groups, in closed form and read off the instruction lists."""
    plan = planned(ep, sharding=sharding, pipeline=1, data=8)
    experts = sum(block.expert_parameters for block in MODEL.blocks)
    dense = MODEL.parameters - experts
    closed = {g.name: g.bytes_per_step for g in with_closed_bytes(plan.groups, plan)}
    assert {g.name: g.bytes_per_step for g in plan.groups} == closed
    if sharding == "parameters":  # of which some buckets stay whole between two uses
        return
    rounds = MODEL.gradient_bytes * (plan.schedule.microbatches if sharding == "gradients" else 1)
    rounds += MODEL.parameter_bytes
    assert closed["data.s0"] == 7 * dense * rounds
    for which in range(ep):
        assert closed[f"data.s0.e{which}"] == (8 // ep - 1) * (experts // ep) * rounds


def test_experts_that_one_rank_alone_holds_are_not_exchanged() -> None:
    plan = planned(8, pipeline=1, data=8)
    assert not any(group.name.startswith("data.s0.e") for group in plan.groups)
    reduced = [i for i in program_of(plan).ranks[0] if i.op is Op.REDUCE_SCATTER]
    dense = MODEL.parameters - sum(block.expert_parameters for block in MODEL.blocks)
    assert sum(i.bytes for i in reduced) == dense * MODEL.gradient_bytes


def test_an_expert_rank_computes_as_much_and_holds_less() -> None:
    """Fewer experts with more tokens each: the same FLOPs; states of 1/ep of the experts."""
    from holmes.cost.axes import Split, split_workload

    block, shared = MODEL.blocks[1], split_workload(MODEL, Split(expert=4)).blocks[1]
    for part, other in zip(block.inner, shared.inner, strict=True):
        if isinstance(part, Segment):
            assert other.flops == part.flops
            assert sum(p.flops for p in other.products) == sum(p.flops for p in part.products)
    assert shared.parameters == block.parameters_on_rank(1, 4)
    assert shared.expert_parameters == block.expert_parameters // 4


@pytest.mark.parametrize("sharding", ["none", "optimizer", "gradients", "parameters"])
def test_states_of_experts_divide_over_the_ranks_that_hold_them(sharding: Any) -> None:
    """By hand: dense parts over 8 replicas, experts over 2 of every 4."""
    load = MODEL
    held = stage_parts(load, (1, 5), Layout(dp=8, ep=4), sharding, 0, 0, "none").states
    experts = sum(block.expert_parameters for block in load.blocks[1:5])
    dense = sum(block.parameters for block in load.blocks[1:5]) - experts
    sizes = load.parameter_bytes, load.gradient_bytes, load.optimizer_bytes
    levels = {"none": 0, "optimizer": 1, "gradients": 2, "parameters": 3}[sharding]
    expected = 0.0
    for elements, replicas in ((dense, 8), (experts / 4, 2)):
        for index, size in enumerate(sizes):
            expected += elements * size / (replicas if index >= 3 - levels else 1)
    if sharding == "parameters" and load.optimizer_bytes > 2 * load.gradient_bytes:
        expected -= (dense / 8 + experts / 8) * load.parameter_bytes
    assert held == pytest.approx(expected)


def test_tokens_of_the_exchange_are_held_as_they_leave_and_as_they_arrive() -> None:
    plain, shared = (
        stage_parts(MODEL, (1, 5), Layout(dp=8, ep=ep), "none", 1, 3, "none") for ep in (1, 2)
    )
    assert shared.working - plain.working == 2 * 3 * ONE_WAY
    assert shared.activations == plain.activations


def test_seconds_of_the_exchange_are_two_each_way_and_the_forward_s_again() -> None:
    block = MODEL.blocks[1]
    forward, backward = exchange_seconds(block, 3, 1, lambda n: n, "none")
    assert (forward, backward) == (6 * ONE_WAY, 6 * ONE_WAY)
    assert exchange_seconds(block, 3, 1, lambda n: n, "selective") == (forward, backward)
    assert exchange_seconds(block, 3, 1, lambda n: n, "full") == (forward, forward + backward)
    assert exchange_seconds(MODEL.blocks[0], 3, 1, lambda n: n, "full") == (0, 0)


def drafted(search: Search, row: Any) -> Draft | str:
    estimates = Estimates(search.settings, row.shape, row.ground, row.choice)
    return draft(search.request, search.settings, estimates)


def test_scores_bound_the_prices_of_expert_layouts() -> None:
    """Random candidates: time and memory of the survey against the exact draft."""
    import random

    search = Search(asked(2, context=1, schedule="1f1b"), exhaustive=True)
    search.survey()
    _, _, places = search.field.flat()
    each = [search.field.row(place) for place in places]
    shared = [row for row in each if row.shape.layout.ep > 1]
    assert {row.shape.layout.ep for row in shared} == {2, 4, 8}
    for row in random.Random(1).sample(shared, 25):
        made = drafted(search, row)
        assert isinstance(made, Draft), (str(row), made)
        seconds = search.pricing.quick_seconds(made)
        assert seconds >= row.least_seconds * (1 - 1e-9), str(row)
        assert max(made.memory) == pytest.approx(row.bytes_, rel=0.15)


def test_the_search_finds_what_brute_force_finds() -> None:
    """Every layout, micro-batch and choice drafted and priced, one by one."""
    wishes = {"schedule": "1f1b", "recompute": "none", "sharding": "optimizer", "context": 1}
    request = asked(2, devices=2, batch=8, **wishes)
    found = make_plan(request)
    search = Search(request)
    topology, cost = Topology(request.site), request.cost
    pricing, best = Pricing(cost, search.field.survey.norms), float("inf")
    for tp, pp, ep, micro in itertools.product((1, 2), (1, 2, 4), (1, 2, 4), (1, 2, 4, 8)):
        dp = 4 // (tp * pp)
        if tp * pp * dp != 4 or dp % ep or 8 % (dp * micro):
            continue
        layout = Layout(tp, pp, dp, ep=ep)
        shape = Shape(layout, Batch(8, micro))
        for ranks in rank_maps(topology, layout, "cluster"):
            ground = Ground(cost, layout, ranks, "per-group")
            for sequence in (False, True)[: 1 + (tp > 1)]:
                choice = Choice(sequence=sequence)
                made = draft(
                    request, search.settings, Estimates(search.settings, shape, ground, choice)
                )
                if isinstance(made, Draft):
                    best = min(best, pricing.seconds(made))
    assert found.predicted.step_seconds == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"context": 2, "pipeline": 1},
        {"context": 2, "data": 1, "pipeline": 4},
        {"recompute": "full"},
    ],
)
def test_a_plan_prices_like_the_search_that_made_it(wishes: dict[str, Any]) -> None:
    """The event engine on the plan as it is, its all-to-alls included; and memory."""
    plan = planned(2, **wishes)
    cost = CostModel(Topology(plan.site), plan.workload, asked(2).calibration)
    timeline = simulate(plan, cost, program_of(plan))
    assert timeline.makespan * 1e-9 == pytest.approx(plan.predicted.step_seconds, rel=0.02)
    assert max(part.total for part in memory_parts(plan)) == max(
        plan.predicted.memory_bytes.values()
    )


@pytest.mark.parametrize("sharding", ["optimizer", "gradients"])
def test_engines_agree_where_experts_bind(sharding: Any) -> None:
    """Nodes of one device on slow cards, where tokens and sums of experts take most of the step:
    score, closed form, events and the simulation of the plan alone."""
    where = site(4, devices=1, kind="a100-80g-sxm", gbit_s=(10, 10, 10))
    wishes = Wishes(1, 1, 4, expert=2, schedule="1f1b", sharding=sharding, recompute="none")
    request = PlanRequest("test", where, MODEL, 32, 1, wishes, DEFAULT)
    search = Search(request, exhaustive=True)
    (row,) = rows = [row for row in _rows(search) if not row.choice.sequence]
    made = drafted(search, row)
    assert isinstance(made, Draft) and len(rows) == 1
    quick, events = search.pricing.quick_seconds(made), search.pricing.seconds(made)
    cost = CostModel(Topology(where), MODEL, DEFAULT)
    alone = simulate(made.plan, cost, program_of(made.plan, check=False)).makespan * 1e-9
    bound = 0.05 if sharding == "gradients" else 0.03
    assert quick == pytest.approx(events, rel=bound)
    assert alone == pytest.approx(events, rel=0.03)
    assert row.seconds == pytest.approx(events, rel=0.1)
    tokens = 8 * 4 * 4 * ONE_WAY / 2 / (10e9 / 8)
    assert events > tokens


def _rows(search: Search) -> list[Any]:
    search.survey()
    return [search.field.row(place) for place in search.field.flat()[2]]


def test_tokens_on_their_way_take_longer_between_nodes() -> None:
    """The same ranks with groups that leave the node: data of 4 on 2-device nodes."""
    inside, outside = (
        make_plan(asked(4, devices=2, tensor=1, pipeline=2, data=4, expert=ep)) for ep in (2, 4)
    )
    fabrics = [
        {g.transport.name for g in plan.groups if g.axis == "expert"} for plan in (inside, outside)
    ]
    assert fabrics == [{"intra-node"}, {"infiniband"}]


def test_models_without_experts_have_no_expert_layouts() -> None:
    dense = replace(MODEL, experts=0)
    request = replace(asked(2), workload=dense)
    search = Search(request)
    search.survey()
    assert {scores.ground.layout.ep for scores in search.field.scores} == {1}


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"expert": 3, "data": 3}, "8 experts do not divide over 3"),
        ({"expert": 4, "data": 2}, "2 replicas do not divide into groups of 4"),
        ({"expert": 8, "data": 2, "context": 2}, "4 replicas do not divide into groups of 8"),
        ({"expert": 2, "data": 4, "sharding": "hybrid"}, "sharding hybrid"),
        ({"expert": 0}, "parallel.expert is 0"),
    ],
)
def test_expert_ranks_that_cannot_be(wishes: dict[str, Any], message: str) -> None:
    nodes = 3 if wishes.get("data") == 3 else 2
    with pytest.raises(ConfigError, match=message) as caught:
        make_plan(asked(nodes, devices=2, tensor=1, **wishes))
    assert "parallel.expert" in str(caught.value.where)


def test_a_dense_model_has_no_experts_to_divide() -> None:
    request = replace(asked(2, expert=2), workload=replace(MODEL, experts=0))
    with pytest.raises(ConfigError, match="no experts to divide over 2"):
        make_plan(request)


def test_a_plan_shows_its_expert_ranks() -> None:
    plan = planned()
    assert layout_text(plan).endswith("x dp 4 x ep 2")
    assert plan.degrees["ep"] == 2
    assert any("experts over 2 of 4 replicas: 4 of 8 each" in line for line in plan.explain)
    sizes = {"layers": 4, "hidden": 256, "heads": 8, "sequence": 512, "ffn": 512, "top_k": 2}
    assert "--expert-model-parallel-size 2" in arguments(plan, sizes)


def test_context_ranks_are_replicas_that_share_experts() -> None:
    """One data rank of two context ranks: an expert group of both, asked for and searched."""
    plan = planned(2, pipeline=4, data=1, context=2)
    assert [g.ranks for g in plan.groups if g.axis == "expert"] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert any("experts over 2 of 2 replicas: 4 of 8 each" in line for line in plan.explain)
    assert MODEL.expert_obstacle(plan.stages[0].layout.replicas, 2) is None
    search = Search(asked(2, tensor=1, pipeline=4, data=1, context=2, schedule="1f1b"))
    search.survey()
    assert {scores.ground.layout.ep for scores in search.field.scores} == {1, 2}


def test_padding_of_context_ranks_goes_to_no_expert() -> None:
    """Bytes of a group are those that its exchange is priced by."""
    plan = planned(2, pipeline=2, data=2, context=2)
    uneven = replace(plan, workload=replace(plan.workload, sequence=511))
    assert uneven.padding > 1 == plan.padding
    (group, *_) = (g for g in plan.groups if g.axis == "expert")
    blocks = plan.workload.blocks[slice(*plan.stages[0].blocks)]
    each = [exchange_seconds(b, plan.batch.micro, 2, lambda n: n, plan.recompute) for b in blocks]
    handed = 2 * sum(forward + backward for forward, backward in each) / 2
    for one in (plan, uneven):
        assert expert_bytes(group, one) == handed * plan.schedule.microbatches


@pytest.mark.parametrize("tp", [1, 2])
def test_megatron_trains_experts_over_tensor_ranks_with_sequence_parallelism(tp: int) -> None:
    """Its layer raises without; a plan that goes without is told apart in the notes."""
    plan = replace(planned(tensor=tp, pipeline=1, data=8 // tp), sequence_parallel=False)
    sizes = {"layers": 4, "hidden": 256, "heads": 8, "sequence": 512, "ffn": 512, "top_k": 2}
    assert ("--sequence-parallel" in arguments(plan, sizes)) == (tp > 1)
    assert any("--sequence-parallel" in line for line in notes(plan)) == (tp > 1)
    divided = replace(plan, sequence_parallel=True)
    assert arguments(divided, sizes).count("--sequence-parallel") == 1
    assert not any("--sequence-parallel" in line for line in notes(divided))


def test_a_runtime_without_expert_ranks_refuses_a_wish_for_them() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(Wishes(expert=2), CAPABILITIES)
    assert caught.value.what == "parallel.expert: 2 cannot be run by this version"
    assert settings_of(Wishes(expert=1), CAPABILITIES).axes == CAPABILITIES.axes
    assert "expert" in settings_of(Wishes(expert=2), None).axes
