"""Several texts mixed by weight, and documents kept apart: exact, in order, resumable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holmes.data.batches import IGNORED, BatchPlan, HeldOut
from holmes.data.mixture import ROUND, Mixture
from holmes.data.prepare import TextPart, TextSettings, prepare_parts
from holmes.data.tokens import Tokens
from holmes.errors import ConfigError
from holmes.models.common import chain

SEQUENCE, END = 8, 9


def text(windows: int, base: int) -> Tokens:
    ids = base + np.arange(windows * SEQUENCE + 1, dtype=np.uint32)
    return Tokens(ids, ("a",), 10**6, f"d{base}", END)


def mixed(*weights: float) -> Mixture:
    return Mixture(tuple(text(20 + i, 10_000 * (i + 1)) for i in range(len(weights))), weights)


@settings(deadline=None, max_examples=30)
@given(weights=st.lists(st.floats(0.1, 10), min_size=2, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_a_round_holds_the_shares_and_every_text_counts_up(weights: list[float], seed: int) -> None:
    mixture = mixed(*weights)
    assert sum(mixture.quotas) == ROUND
    for quota, weight in zip(mixture.quotas, weights, strict=True):
        assert abs(quota - ROUND * weight / sum(weights)) < 1
    dealt = [mixture.deal(n, seed) for n in range(2 * ROUND)]
    for part in range(len(weights)):
        numbers = [number for which, number in dealt if which == part]
        assert numbers == list(range(2 * mixture.quotas[part]))


def test_the_texts_alternate_within_a_round() -> None:
    mixture = mixed(3, 1)
    parts = [mixture.deal(n, 0)[0] for n in range(40)]
    assert 3 <= sum(parts) <= 20  # of the second about 10
    assert parts != [mixture.deal(n, 1)[0] for n in range(40)]


def test_a_weight_that_never_comes_up_is_refused() -> None:
    with pytest.raises(ConfigError, match="never be read"):
        mixed(1e4, 1)


@pytest.mark.parametrize("worlds", [(1, 4), (4, 2), (2, 1)])
def test_each_sample_comes_once_also_where_the_world_changes(worlds: tuple[int, int]) -> None:
    """Ten steps at one data degree, then the rest of an epoch at another, from the position."""
    plan = BatchPlan(mixed(2, 1), SEQUENCE, 8, seed=3)
    places = [plan.locate(step, sample) for step in range(20) for sample in range(8)]
    found = []
    for dp, steps, now in (
        (worlds[0], range(10), plan),
        (worlds[1], range(10, 20), BatchPlan(mixed(2, 1), SEQUENCE, 8, seed=3)),
    ):
        if steps.start:
            now = now.resumed(plan.position(10))
        for step in steps:
            for d in range(dp):
                found += now.samples(step, d * 8 // dp, (d + 1) * 8 // dp).tokens[:, 0].tolist()
    assert found == [10_000 * (part + 1) + window * SEQUENCE for part, window in places]
    for part, windows in ((0, 20), (1, 21)):
        mine = [window for which, window in places if which == part]
        for start in range(0, len(mine) - windows + 1, windows):  # each epoch of it
            assert sorted(mine[start : start + windows]) == list(range(windows))


def test_a_mixture_of_other_weights_is_another_text() -> None:
    assert mixed(2, 1).digest != mixed(1, 1).digest
    assert Mixture((text(3, 0),)).digest == "d0"


def documents() -> Tokens:
    """Documents of 3, 5, 1 and many tokens, each closed by the mark."""
    ids = [1, 1, END, 2, 2, 2, 2, END, END, *range(100, 140)]
    return Tokens(np.array(ids, dtype=np.uint16), ("a",), 200, "d", END)


def test_documents_are_numbered_and_their_first_token_is_no_target() -> None:
    plan = BatchPlan(documents(), SEQUENCE, 6, apart=True)
    batch = plan.samples(0, 0, 6)
    first = next(row for row in range(6) if batch.tokens[row, 0] == 1)
    assert batch.documents is not None
    assert batch.documents[first].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert batch.targets[first].tolist() == [1, END, IGNORED, 2, 2, 2, END, IGNORED]
    assert IGNORED == chain.IGNORED
    ignored = (batch.targets == IGNORED).sum()
    assert ignored == 3  # the lone mark begins another window
    assert batch.weight == 48 / (48 - ignored)
    halves = [plan.samples(0, 3 * d, 3 * d + 3) for d in range(2)]
    assert [half.weight for half in halves] == [batch.weight] * 2
    held = HeldOut(documents(), SEQUENCE, apart=True).samples(0, 2)
    assert held.weight == 48 / 45 and held.documents is not None


def test_several_texts_share_a_tokenizer_and_hold_out_documents_each(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(f'{{"body": "{name} {i} {i * 7} once more"}}\n' for i in range(40))
        )
    parts = [TextPart(str(tmp_path / f"{n}.jsonl"), w, "body") for n, w in (("a", 2.0), ("b", 1.0))]
    found = prepare_parts(parts, TextSettings(300, 0.2), tmp_path / "cache")
    train, held = found.files.open()
    assert held is not None and len(train.parts) == len(held.parts) == 2
    assert train.weights == (2.0, 1.0)
    for one, other in zip(train.parts, held.parts, strict=True):
        assert not set(one.documents) & set(other.documents)
        assert (one.ids == one.end).sum() == len(one.documents)
    assert held.parts[0].vocabulary == train.parts[1].vocabulary == found.vocabulary
