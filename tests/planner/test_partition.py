"""Partitions: the exact rule against brute force, the paper's rule and Megatron's by hand."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holmes.errors import ConfigError
from holmes.planner.buckets import buckets_of
from holmes.planner.partition import Borders, StageCosts, even, exact, objective, proportional
from tests.planner.workloads import chain


def every_cut(blocks: int, stages: int) -> list[Borders]:
    """All ways to cut a chain."""
    found = []
    for cuts in combinations(range(1, blocks), stages - 1):
        edges = [0, *cuts, blocks]
        found.append(tuple(pairwise(edges)))
    return found


@st.composite
def stage_costs(draw: st.DrawFn) -> StageCosts:
    stages = draw(st.integers(1, 4))
    blocks = draw(st.integers(stages, 8))
    seconds = st.integers(0, 20).map(float)
    rows = st.lists(
        st.lists(seconds, min_size=blocks, max_size=blocks).map(tuple),
        min_size=stages,
        max_size=stages,
    ).map(tuple)
    per_block = draw(st.lists(seconds, min_size=stages, max_size=stages))
    room = draw(st.lists(st.integers(1, blocks), min_size=stages, max_size=stages))
    return StageCosts(
        forward=draw(rows),
        backward=draw(rows),
        microbatches=draw(st.integers(1, 12)),
        exposed=lambda stage, start, stop: per_block[stage] * (stop - start),
        fits=lambda stage, start, stop: stop - start <= room[stage],
    )


@given(stage_costs())
def test_exact_is_the_best_of_all_cuts(costs: StageCosts) -> None:
    best = min(objective(costs, cut) for cut in every_cut(costs.blocks, costs.stages))
    found = exact(costs)
    if math.isinf(best):
        assert found is None
    else:
        assert found is not None
        assert objective(costs, found) == pytest.approx(best)


def test_exact_gives_slow_stages_fewer_blocks() -> None:
    costs = StageCosts(
        forward=((1.0,) * 9, (2.0,) * 9),
        backward=((2.0,) * 9, (4.0,) * 9),
        microbatches=64,
        exposed=lambda *_: 0.0,
        fits=lambda *_: True,
    )
    assert exact(costs) == ((0, 6), (6, 9))


def test_a_slow_reduction_moves_the_border() -> None:
    def exposed(stage: int, start: int, stop: int) -> float:
        return (10.0 if stage == 0 else 0.0) * (stop - start)

    flat = StageCosts(((1.0,) * 8,) * 2, ((2.0,) * 8,) * 2, 4, lambda *_: 0.0, lambda *_: True)
    slow = StageCosts(flat.forward, flat.backward, 4, exposed, lambda *_: True)
    assert exact(flat) == ((0, 4), (4, 8))
    moved = exact(slow)
    assert moved is not None and moved[0][1] < 4


def test_large_chain_is_exact_and_quick() -> None:
    """130 blocks in 32 stages: the bound keeps the search small (a count, not a clock)."""
    calls = 0

    def fits(stage: int, start: int, stop: int) -> bool:
        nonlocal calls
        calls += 1
        return stop - start <= 12

    layer = (0.1, *(1.0,) * 128, 1.5)
    costs = StageCosts((layer,) * 32, (layer,) * 32, 256, lambda *_: 0.0, fits)
    found = exact(costs)
    assert found is not None
    assert max(stop - start for start, stop in found) == 5
    assert calls < 20_000


def test_even_keeps_transformer_counts_equal() -> None:
    assert even(chain(8).blocks, 4) == ((0, 3), (3, 5), (5, 7), (7, 10))
    assert even(chain(7).blocks, 2) == ((0, 4), (4, 9))
    assert even(chain(7).blocks, 1) == ((0, 9),)


def test_proportional_is_the_papers_rule() -> None:
    # floor(1.05 * 197 / 357 * 30) = 17 layers for InfiniBand, 13 for RoCE.
    assert proportional(chain(30).blocks, (197.0, 160.0)) == ((0, 18), (18, 32))
    # Nobody is left without a block.
    assert proportional(chain(3).blocks, (1000.0, 1.0, 1.0)) == ((0, 2), (2, 3), (3, 5))
    assert proportional(chain(3).blocks, (1.0, 1000.0, 1.0)) == ((0, 2), (2, 3), (3, 5))


def test_more_stages_than_blocks() -> None:
    costs = StageCosts(((1.0,) * 3,) * 4, ((1.0,) * 3,) * 4, 4, lambda *_: 0.0, lambda *_: True)
    with pytest.raises(ConfigError, match="4 pipeline stages for a model of 3 blocks"):
        exact(costs)
    for cut in (lambda: even(chain(3).blocks, 4), lambda: proportional(chain(3).blocks, (1,) * 4)):
        with pytest.raises(ConfigError, match="4 pipeline stages"):
            cut()


@given(st.integers(1, 30), st.floats(0.01, 10), st.booleans())
def test_buckets_cover_the_stage_in_order(layers: int, mb: float, tied: bool) -> None:
    model = chain(layers, tied=tied)
    cut = (layers + 2) // 2
    for blocks in ((0, cut), (cut, layers + 2)):
        found = buckets_of(model, blocks, whole_model=False, bucket_mb=mb)
        assert found[0].blocks[0] == blocks[0] and found[-1].blocks[1] == blocks[1]
        assert all(a.blocks[1] == b.blocks[0] for a, b in pairwise(found))
        expected = sum(model.blocks[i].parameters for i in range(*blocks))
        assert sum(bucket.elements for bucket in found) == expected
        for bucket in found:
            assert bucket.tied == (tied and bucket.blocks in ((0, 1), (layers + 1, layers + 2)))
            assert bucket.tied_elements == (40_000 if bucket.tied else 0)


def test_a_tie_inside_one_stage_counts_once() -> None:
    model = chain(4, tied=True)
    found = buckets_of(model, (0, 6), whole_model=True)
    assert not any(bucket.tied for bucket in found)
    assert sum(bucket.elements for bucket in found) == model.parameters
    assert 4 <= len(found) <= 6
