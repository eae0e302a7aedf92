"""Every level of sharding against plain training, on real ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from holmes.launch.pool import Pool
from tests.runtime.plans import Spec
from tests.runtime.reference import train_plainly
from tests.runtime.trained import kind, name_of, worst
from tests.runtime.trained import trained as trained_shards

DEADLINE = 60
BOUNDS = {"fp32": 1e-6, "fp64": 1e-12}
pytestmark = pytest.mark.parallel

SPECS = [
    Spec(dp=3, sharding="gradients", overlap=True),
    Spec(dp=4, sharding="parameters", overlap=True, microbatches=2),
    Spec(dp=2, sharding="parameters", tied=True, recompute="full"),
    Spec(dp=4, sharding="hybrid", shard=(2,), overlap=True, microbatches=2),
    Spec(dp=4, sharding="three-level", shard=(2, 2), overlap=True, microbatches=2, tied=True),
    Spec(dp=4, sharding="three-level", shard=(2, 4), microbatches=2),
    Spec(dp=4, sharding="three-level", shard=(1, 2), overlap=True, microbatches=2),
    Spec(pp=2, dp=2, sharding="gradients", tied=True, overlap=True),
    Spec(pp=2, dp=2, sharding="parameters", tied=True, overlap=True, blocks_per_bucket=1),
    Spec(pp=2, dp=2, sharding="parameters", schedule="zero-bubble", overlap=True),
    Spec(pp=2, dp=2, sharding="parameters", virtual=2, schedule="interleaved", overlap=True),
    Spec(tp=2, dp=2, sharding="parameters", overlap=True, vocabulary=41, tied=True),
    Spec(tp=2, dp=2, sharding="gradients", family="llama", heads=4, key_heads=1),
]


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_training_equals_plain_training(ranks: Pool, spec: Spec, tmp_path: Path) -> None:
    exact = replace(spec, precision="fp64")
    expected, losses, norms = train_plainly(exact)
    results, found = trained_shards(ranks, exact, tmp_path)
    assert worst(kind(found, "parameters/"), expected, exact) <= BOUNDS["fp64"]
    for result in results:
        assert result["losses"] == pytest.approx(losses, rel=1e-12)
        assert result["norms"] == pytest.approx(norms, rel=1e-12)
        assert result["evaluated"] == results[0]["evaluated"]
    assert losses[-1] < losses[0]
