"""The order of samples: the same whatever the world, every window once per epoch, resumable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holmes.data.batches import BatchPlan, HeldOut
from holmes.data.tokens import Tokens
from holmes.errors import DataError

SEQUENCE = 4


def tokens(windows: int, extra: int = 0, digest: str = "d") -> Tokens:
    """Ids that name their own place."""
    ids = np.arange(windows * SEQUENCE + 1 + extra, dtype=np.uint16)
    return Tokens(ids, ("a",), 65536, digest)


def step_of(plan: BatchPlan, step: int, dp: int, micro: int) -> np.ndarray:
    """All samples of a step, micro-batch after micro-batch, replica after replica."""
    parts = plan.global_batch // micro
    assert parts % dp == 0
    return np.concatenate(
        [plan.samples(step, part * micro, (part + 1) * micro)[0] for part in range(parts)]
    )


def test_targets_are_the_tokens_one_further_on() -> None:
    plan = BatchPlan(tokens(10), SEQUENCE, 6)
    read, targets, *_ = plan.samples(2, 2, 4)
    assert read.shape == targets.shape == (2, SEQUENCE)
    assert read.dtype == targets.dtype == np.int64
    assert (targets == read + 1).all()
    assert read.flags.c_contiguous and targets.flags.c_contiguous


@settings(deadline=None)
@given(
    step=st.integers(0, 1000),
    dp=st.sampled_from([1, 2, 3, 4, 6]),
    micro=st.sampled_from([1, 2]),
    seed=st.integers(0, 3),
)
def test_a_step_holds_the_same_samples_for_every_layout(
    step: int, dp: int, micro: int, seed: int
) -> None:
    plan = BatchPlan(tokens(17), SEQUENCE, 24, seed)
    alone = step_of(BatchPlan(tokens(17), SEQUENCE, 24, seed), step, 1, 1)
    assert (step_of(plan, step, dp, micro) == alone).all()


@given(windows=st.integers(1, 40), batch=st.integers(1, 50), extra=st.integers(0, 3))
def test_an_epoch_visits_every_window_once(windows: int, batch: int, extra: int) -> None:
    plan = BatchPlan(tokens(windows, extra), SEQUENCE, batch)
    assert plan.windows == windows
    steps = -(-2 * windows // batch)
    seen = [plan.window(t, k) for t in range(steps) for k in range(batch)]
    assert sorted(seen[:windows]) == list(range(windows))
    assert sorted(seen[windows : 2 * windows]) == list(range(windows))


def test_epochs_and_seeds_have_their_own_order() -> None:
    plan = BatchPlan(tokens(50), SEQUENCE, 50)
    first = [plan.window(0, k) for k in range(50)]
    assert first != [plan.window(1, k) for k in range(50)]
    assert first != [BatchPlan(tokens(50), SEQUENCE, 50, seed=1).window(0, k) for k in range(50)]
    assert first == [plan.window(0, k) for k in range(50)]
    for epoch in (5, 2, 7, 2):
        again = BatchPlan(tokens(50), SEQUENCE, 50)
        assert plan.window(epoch, 3) == again.window(epoch, 3)


def test_a_run_resumes_at_its_step_and_at_another_batch_size() -> None:
    whole = BatchPlan(tokens(30), SEQUENCE, 4)
    position = whole.position(5)
    again = BatchPlan(tokens(30), SEQUENCE, 4).resumed(position)
    for step in (5, 6, 20):
        assert (step_of(again, step, 2, 1) == step_of(whole, step, 1, 1)).all()
    wider = BatchPlan(tokens(30), SEQUENCE, 8).resumed(position)
    both = np.concatenate([step_of(whole, 5, 1, 1), step_of(whole, 6, 1, 1)])
    assert (step_of(wider, 5, 1, 1) == both).all()
    assert wider.position(6)["samples"] == whole.position(7)["samples"]


@pytest.mark.parametrize("changed", [{"digest": "other"}, {"seed": 9}, {"digest": None}])
def test_a_position_of_other_data_is_refused(changed: dict[str, object]) -> None:
    plan = BatchPlan(tokens(30), SEQUENCE, 4)
    with pytest.raises(DataError, match="data position"):
        plan.resumed({**plan.position(5), **changed})


def test_samples_that_a_step_does_not_have_are_refused() -> None:
    plan = BatchPlan(tokens(30), SEQUENCE, 12)
    for first, last in ((11, 13), (-1, 2), (3, 3)):
        with pytest.raises(ValueError, match="no samples"):
            plan.samples(0, first, last)


@pytest.mark.parametrize("kind", [lambda t: BatchPlan(t, SEQUENCE, 1), lambda t: HeldOut(t, 4)])
def test_too_little_text_is_one_message(kind: object) -> None:
    short = Tokens(np.arange(SEQUENCE, dtype=np.uint16), ("a",), 300, "d")
    with pytest.raises(DataError, match="4 tokens, too few"):
        kind(short)  # type: ignore[operator]


def test_held_out_batches_run_through_the_text_in_order() -> None:
    held = HeldOut(tokens(7), SEQUENCE)
    assert held.rounds(2, 100) == 3
    assert held.rounds(2, 2) == 2
    starts = [int(held.samples(i, i + 1)[0][0, 0]) for i in range(6)]
    assert starts == [SEQUENCE * i for i in range(6)]
    assert held.rounds(10, 5) == 1
    read, targets, *_ = held.samples(0, 10)
    assert read.shape == (10, SEQUENCE) and (targets == read + 1).all()
