"""Every schedule against torch.distributed.pipelining: same loss, same gradients."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from holmes.launch.pool import Pool
from tests.runtime.plans import Spec

pytestmark = pytest.mark.parallel
BOUND = 2e-6
"""fp32; torch divides by the micro-batches at the end, Holmes each loss."""
PAIRS = [
    ("gpipe", "GPipe", 1),
    ("1f1b", "1F1B", 1),
    ("interleaved", "Interleaved1F1B", 2),
    ("looped-bfs", "LoopedBFS", 2),
]


def test_same_loss_and_gradients(ranks: Pool) -> None:
    spec = Spec(pp=2, microbatches=4, layers=6, virtual=2, schedule="interleaved")
    zero = ("zero-bubble", "1F1B", 1)
    results = ranks.run(
        "tests.runtime.cases:compare_with_torch",
        {"spec": asdict(spec), "schedules": [*PAIRS, zero]},
        deadline_seconds=60,
        ranks=2,
    )
    for result in results:
        for name, found in result.items():
            assert found["worst"] <= BOUND, name
    for name, found in results[-1].items():
        assert found["loss"] == pytest.approx(found["torch_loss"], rel=1e-6), name
