"""Every schedule against torch.distributed.pipelining: same loss, same gradients; and the
activations that it holds against the count along its actions."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from holmes.launch.pool import Pool
from holmes.plan.program import schedule_of
from holmes.schedule.timeline import activation_peaks
from tests.runtime.plans import Spec, plan_of

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
    pairs = [*PAIRS, ("zero-bubble", "1F1B", 1)]
    results = ranks.run(
        "tests.runtime.cases:compare_with_torch",
        {"spec": asdict(spec), "schedules": pairs},
        deadline_seconds=60,
        ranks=2,
    )
    for rank, result in enumerate(results):
        for name, _, virtual in pairs:
            assert result[name]["worst"] <= BOUND, name
            plan = plan_of(replace(spec, schedule=name, virtual=virtual))
            blocks = [stage.blocks[1] - stage.blocks[0] for stage in plan.stages]
            assert result[name]["held"] == activation_peaks(schedule_of(plan), blocks)[rank], name
    for name, found in results[-1].items():
        assert found["loss"] == pytest.approx(found["torch_loss"], rel=1e-6), name
