"""Forced schedules: partition and placement per virtual stage, what is held, refusals."""

from __future__ import annotations

import pytest

from holmes.cost.memory import memory_bytes
from holmes.cost.model import CostModel
from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.plan.plan import Plan
from holmes.plan.program import program_of, schedule_of
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES, check
from holmes.schedule import validate
from holmes.simulate import lower_bound_seconds, simulate, step_seconds
from tests.planner.test_search import request
from tests.planner.workloads import chain, site

TWO_CLUSTERS = site(2, 2)


def planned(**wishes: object) -> Plan:
    return make_plan(
        request(TWO_CLUSTERS, chain(8), batch=16, micro=1, capabilities=CAPABILITIES, **wishes)
    )


@pytest.mark.parametrize("partition", ["exact", "even", "proportional"])
@pytest.mark.parametrize("name", ["interleaved", "looped-bfs", "zero-bubble"])
def test_a_forced_schedule_plans_and_runs_as_it_says(name: str, partition: str) -> None:
    plan = planned(schedule=name, partition=partition, pipeline=2, data=2)
    check(plan)
    virtual = 1 if name == "zero-bubble" else 2
    assert plan.schedule.name == name
    assert plan.schedule.virtual_stages == virtual
    assert len(plan.stages) == 2 * virtual
    assert [stage.ranks for stage in plan.stages] == [(0, 1), (2, 3)] * virtual
    assert [stage.blocks[1] for stage in plan.stages[:-1]] == [
        stage.blocks[0] for stage in plan.stages[1:]
    ]
    assert [stage.cluster for stage in plan.stages] == [
        stage.cluster for stage in plan.stages[:2]
    ] * virtual
    program = program_of(plan)
    validate(program, schedule_of(plan))
    used = {ins.group for one in program.ranks for ins in one if ins.group is not None}
    assert used == {group.name for group in plan.groups}
    assert sorted(memory_bytes(plan)) == [0, 1, 2, 3]
    assert any("2 stages per rank" in line for line in plan.explain) == (virtual == 2)


@pytest.mark.parametrize("name", ["interleaved", "looped-bfs", "zero-bubble"])
def test_both_simulators_price_it(name: str) -> None:
    asked = request(TWO_CLUSTERS, chain(8), batch=16, micro=1, schedule=name, pipeline=4, data=1)
    plan = make_plan(
        request(
            TWO_CLUSTERS,
            chain(8),
            batch=16,
            micro=1,
            capabilities=CAPABILITIES,
            schedule=name,
            pipeline=4,
            data=1,
        )
    )
    cost = CostModel(Topology(asked.site), asked.workload, asked.calibration)
    events = simulate(plan, cost).makespan * 1e-9
    assert plan.predicted.step_seconds == pytest.approx(events)
    assert step_seconds(plan, cost) == pytest.approx(events, rel=0.25)
    assert events >= lower_bound_seconds(plan, cost) - 1e-9  # spans are whole nanoseconds
    assert 0 < plan.predicted.bubble_fraction < 1


def test_interleaving_leaves_less_idle() -> None:
    idle = planned(schedule="interleaved", pipeline=4).predicted.bubble_fraction
    plain = planned(schedule="1f1b", pipeline=4, extra_warmup=0).predicted.bubble_fraction
    assert idle < plain


def test_virtual_stages_alone_mean_a_schedule_that_has_them() -> None:
    plan = planned(virtual_stages=2, pipeline=2)
    assert plan.schedule.name in ("interleaved", "looped-bfs")
    assert plan.schedule.virtual_stages == 2


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"schedule": "interleaved", "pipeline": 4, "batch": 6}, "not a multiple of 4"),
        ({"schedule": "interleaved", "pipeline": 4, "virtual_stages": 3}, "12 pipeline stages"),
        ({"schedule": "1f1b", "virtual_stages": 2, "pipeline": 2}, "one stage per rank"),
        ({"schedule": "interleaved", "virtual_stages": 1, "pipeline": 2}, "1 virtual stage"),
        ({"schedule": "looped-bfs", "extra_warmup": 1}, "no effect"),
        ({"virtual_stages": 1000}, "at most"),
    ],
)
def test_refusals_reach_the_user(wishes: dict[str, object], says: str) -> None:
    batch = wishes.pop("batch", 16)
    asked = request(
        TWO_CLUSTERS,
        chain(8),
        batch=batch,  # type: ignore[arg-type]
        micro=1,
        capabilities=CAPABILITIES,
        **wishes,
    )
    with pytest.raises(ConfigError) as caught:
        make_plan(asked)
    assert says in caught.value.text()
