"""The recurrence by levels against its slow twin, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holmes.errors import ConfigError
from holmes.schedule import gpipe, one_f_one_b
from holmes.simulate.recurrence import PartTimes, PipelineTimes, StageTimes, pipeline_seconds
from holmes.simulate.wavefront import wavefront_seconds

seconds = st.floats(0.0, 3.0)


@st.composite
def pipelines(draw: st.DrawFn) -> PipelineTimes:
    """Unequal stages of one to three buckets, the ends tied or not, unequal cuts."""
    count = draw(st.integers(1, 7))
    tied = draw(st.booleans()) and count > 1
    stages = []
    for stage in range(count):
        parts = draw(st.lists(st.tuples(*[seconds] * 4), min_size=1, max_size=3))
        ends = {0: 0, count - 1: len(parts) - 1}
        stages.append(
            StageTimes(
                tuple(
                    PartTimes(*part, tied=tied and ends.get(stage) == i)
                    for i, part in enumerate(parts)
                ),
                draw(seconds),
            )
        )
    cuts = st.lists(seconds, min_size=count - 1, max_size=count - 1).map(tuple)
    return PipelineTimes(
        tuple(stages), draw(cuts), draw(cuts), draw(seconds), draw(seconds), draw(st.booleans())
    )


@given(pipelines(), st.integers(1, 9), st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_gpipe_equals_the_twin(times: PipelineTimes, m: int, overlap: bool) -> None:
    schedule = gpipe(len(times.stages), m)
    fast = wavefront_seconds("gpipe", m, (), times, overlap=overlap)
    assert fast == pipeline_seconds(schedule, times, overlap=overlap)


@given(pipelines(), st.integers(1, 9), st.booleans(), st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_1f1b_equals_the_twin(
    times: PipelineTimes, m: int, overlap: bool, data: st.DataObject
) -> None:
    cuts = len(times.down)
    extras = tuple(data.draw(st.lists(st.integers(0, 3), min_size=cuts, max_size=cuts)))
    schedule = one_f_one_b(cuts + 1, m, extras)
    fast = wavefront_seconds("1f1b", m, extras, times, overlap=overlap)
    assert fast == pipeline_seconds(schedule, times, overlap=overlap)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), [(1, 1), (2, 7), (16, 16), (64, 5), (50, 300)])
def test_equal_stages_idle_p_minus_one_micro_batches(name: str, p: int, m: int) -> None:
    """Bubble (p - 1)/m of the work, for GPipe and for 1F1B (SC21, section 2.2)."""
    stages = (StageTimes((PartTimes(0.0, 1.0, 2.0, 0.0),)),) * p
    times = PipelineTimes(stages, (0.0,) * (p - 1), (0.0,) * (p - 1), exchanges=False)
    assert wavefront_seconds(name, m, (), times, overlap=False) == 3.0 * (m + p - 1)  # type: ignore[arg-type]


def test_candidates_are_priced_at_once() -> None:
    rng = np.random.default_rng(5)
    forward = rng.uniform(0.5, 2.0, (9, 6))
    cut = rng.uniform(0.0, 1.0, 9)

    def times(of: np.ndarray, over: np.ndarray | float) -> PipelineTimes:
        stages = tuple(
            StageTimes((PartTimes(0.2, of[..., s], 2 * of[..., s], 0.3),), 0.1) for s in range(6)
        )
        return PipelineTimes(stages, (over,) * 5, (0.4,) * 5, norms=0.01)

    together = wavefront_seconds("1f1b", 11, (1, 0, 0, 2, 0), times(forward, cut), overlap=True)
    for k in range(9):
        alone = wavefront_seconds(
            "1f1b", 11, (1, 0, 0, 2, 0), times(forward[k], float(cut[k])), overlap=True
        )
        assert together[k] == alone


def test_wrong_warmup_is_refused() -> None:
    stages = (StageTimes((PartTimes(0.0, 1.0, 2.0, 0.0),)),) * 3
    times = PipelineTimes(stages, (0.0, 0.0), (0.0, 0.0))
    with pytest.raises(ConfigError, match="3 stages"):
        wavefront_seconds("1f1b", 4, (1,), times, overlap=False)
