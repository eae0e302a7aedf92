"""Runs without a fault raise no alarm: evaluations, checkpoints, and a noisy neighbour."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holmes.diagnose.diagnose import diagnose
from holmes.events.metrics import read_metrics
from holmes.lab.probe import capabilities
from holmes.train.rehearsal import Rehearsal
from tests.recovery.cases import job

STEPS = 60
MODEL = "model={preset: gpt-1m, layers: 4, hidden: 128, heads: 2, sequence: 64, vocabulary: 300}"
"""That of `benchmarks/soak.py`: messages long enough that moments of the scheduler are short."""
MORE = (
    f"train={{steps: {STEPS}, trace_steps: 0, evaluate_every: 10, evaluate_batches: 1, "
    "checkpoint_every: 15, spike_factor: 20}"
)
BURSTS = """
import time
end = time.monotonic() + 60
while time.monotonic() < end:
    stop = time.monotonic() + 1
    while time.monotonic() < stop:
        pass
    time.sleep(0.5)
"""
"""Its own deadline ends it, also when nobody is left to do so."""


@contextmanager
def neighbour(cores: int) -> Iterator[None]:
    """Computes in bursts on so many cores."""
    started = [subprocess.Popen([sys.executable, "-c", BURSTS]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.lab
@pytest.mark.faults
@pytest.mark.skipif(not capabilities().shaped, reason="links cannot be shaped here")
@pytest.mark.parametrize("busy_cores", [0, 2])
def test_no_alarm_without_a_fault(
    on_hosts: tuple[Rehearsal, Path], tmp_path: Path, busy_cores: int
) -> None:
    rehearsal, shared = on_hosts
    resolved = job(shared, MODEL, MORE)
    run = tmp_path / "run"
    with neighbour(busy_cores):
        rehearsal.run(resolved, rehearsal.plan(resolved), run, steps=STEPS)
    verdict = diagnose(run)
    assert verdict.cls == "none", verdict.text()
    assert not (run / "recovery.json").exists() and not (run / "health.jsonl").exists()
    assert len(read_metrics(run / "metrics.jsonl")) == STEPS
