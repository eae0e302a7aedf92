"""TensorBoard scalars, and a clear word where TensorBoard is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.launch.plans import plan_for

from holmes.errors import UnavailableError
from holmes.events.metrics import StepMetrics
from holmes.job.resolve import resolve_job
from holmes.train.board import ScalarBoard
from holmes.train.planning import runnable


def test_scalars(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    board = ScalarBoard(tmp_path, plan_for())
    for step in range(3):
        board.step(StepMetrics(step, 2.0 - step, 0.5, 100.0, 1.0, 1e-3, {"ethernet": 7}))
    board.evaluation(3, 1.5)
    board.close()
    events = accumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    wanted = {"loss/train", "loss/validation", "bytes_sent/ethernet", "step_seconds/predicted"}
    assert wanted <= set(events.Tags()["scalars"])
    assert [each.value for each in events.Scalars("loss/train")] == [2.0, 1.0, 0.0]


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holmes.train.board.find_spec", lambda name: None)
    words = ["site=demo", "model=gpt-1m", "batch.global=4", "train.tensorboard=true"]
    with pytest.raises(UnavailableError, match=r"holmes\[tensorboard\]"):
        runnable(resolve_job(None, words), on_gpu=False)
