"""The closed form of micro-batches in flight against the generated schedules."""

from __future__ import annotations

import pytest

from holmes.plan.layout import ScheduleName
from holmes.planner.schedules import in_flight
from holmes.schedule.generate import generate

SIZES = [(2, 4), (4, 4), (4, 8), (3, 9)]


@pytest.mark.parametrize(("stages", "microbatches"), SIZES)
@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zero-bubble"])
def test_one_stage_a_device_holds_what_is_said(
    name: ScheduleName, stages: int, microbatches: int
) -> None:
    held = generate(name, stages, microbatches, 1).in_flight
    said = in_flight(name, stages, microbatches, 1, (0,) * (stages - 1))
    assert said == held


@pytest.mark.parametrize(("stages", "microbatches"), SIZES)
@pytest.mark.parametrize("name", ["interleaved", "looped-bfs"])
def test_a_device_of_several_stages_holds_at_most_what_they_do(
    name: ScheduleName, stages: int, microbatches: int
) -> None:
    held = generate(name, stages, microbatches, 2).in_flight
    for stage, said in enumerate(in_flight(name, stages, microbatches, 2, ())):
        assert max(held[stage::stages]) / 2 <= said <= sum(held[stage::stages]) / 2
