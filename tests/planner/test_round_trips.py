"""Round trips through slow cuts against the recurrence over the generated schedules."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest

from holmes.planner.round_trips import _lengths, round_trips
from holmes.schedule.generate import generate
from holmes.simulate.recurrence import PartTimes, PipelineTimes, StageTimes, pipeline_seconds

Name = Literal["1f1b", "zero-bubble"]
FULL = 12
"""Pipelines' worth of micro-batches; each further one adds the same."""


def drawn(stages: int, seed: int) -> tuple[PipelineTimes, tuple[int, ...]]:
    """Stages alike within a third, one or two slow cuts, and extra warm-up at some."""
    draw = random.Random(seed)
    parts = []
    for _ in range(stages):
        forward = draw.uniform(0.8, 1.2)
        weight = forward * draw.uniform(0.8, 1.0)
        parts.append(StageTimes((PartTimes(0.0, forward, 2 * forward, 0.0, False, weight),)))
    cuts = [draw.choice([0.01, 0.01, 0.3, 2.0]) for _ in range(stages - 1)]
    extras = tuple(draw.choice([0, 0, 1]) for _ in range(stages - 1))
    return PipelineTimes(tuple(parts), tuple(cuts), tuple(cuts), exchanges=False), extras


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("stages", [2, 3, 6])
@pytest.mark.parametrize("name", ["1f1b", "zero-bubble"])
def test_a_micro_batch_takes_what_the_slowest_cycle_allows(
    name: Name, stages: int, seed: int
) -> None:
    times, extras = drawn(stages, seed)

    def seconds(microbatches: int) -> float:
        schedule = generate(name, stages, microbatches, 1, extras)
        return float(pipeline_seconds(schedule, times, overlap=True))

    # Cycles of several micro-batches repeat after as many as are in flight, or parts of it.
    apart = 60
    measured = (seconds(FULL * stages + apart) - seconds(FULL * stages)) / apart
    divided = name == "zero-bubble"
    after = np.array([[stage.parts[0].weight if divided else 0.0 for stage in times.stages]])
    whole = np.array([[stage.forward + stage.backward for stage in times.stages]])
    flight = np.array([[stages - s + sum(extras[s:]) for s in range(stages)]], dtype=float)
    waits = round_trips(whole - after, after, np.array([times.down]), flight, np.array([1e9]))
    assert measured == pytest.approx(max(whole.max(), max(times.down), waits[0]), rel=0.02)


def test_all_of_a_step_in_flight_waits_for_nothing() -> None:
    one = np.ones((1, 3))
    cuts, flight = np.full((1, 2), 5.0), np.array([[3.0, 2.0, 1.0]])
    assert round_trips(one, 0 * one, cuts, flight, np.array([3.0]))[0] == pytest.approx(6.0)
    assert round_trips(one, 0 * one, cuts, flight, np.array([1.0]))[0] == 0.0


@pytest.mark.parametrize("stages", [1, 2, 5, 8, 9, 64, 1024])
def test_runs_that_are_looked_at_reach_from_two_stages_to_all(stages: int) -> None:
    lengths = _lengths(stages)
    assert lengths[0] == min(2, stages)
    assert lengths[-1] == stages
    assert all(b <= max(a + 1, 1.6 * a) for a, b in pairwise(lengths))
