"""Bytes of every group in closed form against the instruction lists, to the byte."""

from __future__ import annotations

from typing import Any

import pytest

from holmes.plan.program import program_of
from holmes.planner.groups import with_bytes
from holmes.planner.traffic import with_closed_bytes
from tests.runtime.plans import Spec, plan_of

LEVELS = [
    ("gradients", ()),
    ("parameters", ()),
    ("hybrid", (2,)),
    ("three-level", (1, 2)),
    ("three-level", (2, 4)),
]
SCHEDULES = [
    {"pp": 1},
    {"pp": 3},
    {"pp": 2, "schedule": "zero-bubble"},
    {"pp": 2, "schedule": "interleaved", "virtual": 2},
    {"pp": 2, "schedule": "looped-bfs", "virtual": 2, "overlap": True},
]


@pytest.mark.parametrize(("sharding", "shard"), LEVELS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("tied", [False, True])
def test_closed_bytes_are_those_of_the_lists(
    sharding: str, shard: tuple[int, ...], schedule: dict[str, Any], tied: bool
) -> None:
    for blocks in (1, 2, 9):
        sizes: dict[str, Any] = {"dp": 4, "layers": 6, "blocks_per_bucket": blocks, "tied": tied}
        plan = plan_of(Spec(sharding=sharding, shard=shard, **sizes, **schedule))
        listed = with_bytes(plan.groups, program_of(plan, check=False), plan)
        assert listed == with_closed_bytes(plan.groups, plan)


def test_a_bucket_that_stays_whole_between_two_computations_is_not_gathered_again() -> None:
    plan = plan_of(Spec(dp=4, sharding="parameters", layers=6, blocks_per_bucket=9))
    (group,) = (g for g in with_closed_bytes(plan.groups, plan) if g.axis == "data")
    (bucket,) = plan.stages[0].buckets
    weights = bucket.elements * plan.workload.parameter_bytes
    gradients = bucket.elements * plan.workload.gradient_bytes
    assert group.bytes_per_step == 3 * (weights + plan.schedule.microbatches * gradients)
