"""Every pair of axes together: training on real ranks against one plain process, in fp64.

Factors: schedule, tensor, pipeline and data ranks (unequal stages too), algorithm of context
ranks, sharding, recompute, tied embeddings, family, overlap and chunks of tensor collectives.
The set holds every pair of values that the runtime does not refuse, and three combinations of
three axes on eight ranks; all parameters and the running means of all gradients are compared,
whatever their place.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from holmes.errors import ConfigError
from holmes.launch.pool import Pool
from holmes.runtime.capabilities import check
from tests.runtime.covering import (
    FACTORS,
    Combination,
    Pair,
    all_combinations,
    covering,
    legal,
)
from tests.runtime.plans import plan_of
from tests.runtime.reference import train_with_moments
from tests.runtime.trained import BOUNDS, kind, trained, worst

IMPOSSIBLE = {(("pp", 1), ("dp", "2+1")), (("tp", 1), ("chunks", 2))}
"""One stage cannot have two widths, and one rank has no collective to cut."""


@pytest.mark.parallel
@pytest.mark.parametrize("one", covering(), ids=lambda one: one.name)
def test_training_equals_plain_training(seats: Pool, one: Combination, tmp_path: Path) -> None:
    spec = one.spec
    expected, moments, losses, norms = train_with_moments(spec)
    results, found = trained(seats, spec, tmp_path)
    assert worst(kind(found, "parameters/"), expected, spec) <= BOUNDS["fp64"]
    assert worst(kind(found, "exp_avg/"), moments, spec) <= BOUNDS["fp64"]
    for result in results:
        assert result["losses"] == results[0]["losses"]
        assert result["losses"] == pytest.approx(losses, rel=1e-12)
        assert result["norms"] == pytest.approx(norms, rel=1e-12)
        assert result["evaluated"] == results[0]["evaluated"]
    assert len(set(losses)) == len(losses) and all(math.isfinite(loss) for loss in losses)
    assert abs(losses[-1] - math.log(spec.config.vocabulary)) > 1e-3


def all_pairs() -> set[Pair]:
    """From the factors alone, without asking what a combination is."""
    values = [(name, value) for name, listed in FACTORS.items() for value in listed]
    return {(a, b) for a, b in combinations(values, 2) if a[0] != b[0]}


def test_every_pair_is_trained_or_refused() -> None:
    trained_pairs: set[Pair] = set().union(*(one.pairs for one in covering()))
    refused = {(("schedule", name), ("pp", 1)) for name in ("interleaved", "looped-bfs")}
    refused |= {(("dp", "2+1"), ("cp", name)) for name in ("ring", "rsa", "ulysses")}
    refused |= {(("schedule", "zero-bubble"), ("chunks", 2))}
    assert all_pairs() - trained_pairs == refused | IMPOSSIBLE
    assert not trained_pairs & refused


def test_the_set_is_small_and_always_the_same() -> None:
    chosen = covering()
    assert len(set(chosen)) == len(chosen) <= 45
    assert set(chosen) <= set(legal())
    covering.cache_clear()
    assert covering() == chosen


def test_what_is_not_trained_is_refused_with_one_clear_error() -> None:
    """All combinations of the factors that a refusal depends on, with and without shard groups."""
    plain = {"recompute": "none", "tied": False, "family": "llama", "overlap": False}
    seen: set[str] = set()
    for one in all_combinations():
        if one != replace(one, **plain) or one.sharding not in {"none", "three-level"}:
            continue
        try:
            check(plan_of(one.spec))
        except ConfigError as error:
            assert one.refusal is not None, f"{one.name}: {error.text()}"
            assert one.refusal in error.text()
            assert error.exit_code == 78 and error.where and error.next_step
            seen.add(one.refusal)
        else:
            assert one.refusal is None, f"{one.name} is not refused"
    assert len(seen) == 4
