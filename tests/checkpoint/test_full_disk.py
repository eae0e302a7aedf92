"""A whole run on a disk that takes small files only: one message, exit 74, nothing left."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 250_000
"""Bytes of one file: enough for everything a run writes but its checkpoint."""


def train(tmp_path: Path, *more: str, limited: bool = False) -> subprocess.CompletedProcess[str]:
    """A tiny job on two ranks, in a process that may be refused large files."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {n}: to be or not to be {n * 7 % 13}" for n in range(900)))
    words = [
        "site=demo",
        "model={preset: gpt-1m, layers: 2, hidden: 128, heads: 2, sequence: 16, tied: false, "
        "vocabulary: 300}",
        f"data={{source: {text}, vocabulary: 300, cache: {tmp_path / 'cache'}, "
        "validation_fraction: 0}",
        "batch={global: 8, micro: 2}",
        "parallel={pipeline: 2, data: 2}",
        f"output={tmp_path / 'runs'}",
        *more,
    ]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))

    return subprocess.run(
        [sys.executable, "-m", "holmes", "train", *words],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=limit if limited else None,
    )


@pytest.mark.faults
def test_a_background_save_that_fails_ends_the_run_and_spares_the_older_one(
    tmp_path: Path,
) -> None:
    steps = "train={steps: 2, checkpoint_every: 2}"
    done = train(tmp_path, steps, "name=run")
    assert done.returncode == 0, done.stderr
    more = "train={steps: 40, checkpoint_every: 3}"
    done = train(tmp_path, more, "name=run", "--resume", limited=True)
    assert done.returncode == 74, done.stderr
    assert "cannot write the checkpoint" in done.stderr
    assert "step-2" in done.stderr
    assert "Traceback" not in done.stderr
    checkpoints = tmp_path / "runs" / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step-2"]
    done = train(tmp_path, "train={steps: 4}", "name=run", "--resume")
    assert done.returncode == 0, done.stderr
    assert {"step-2", "step-4"} <= {path.name for path in checkpoints.iterdir()}
