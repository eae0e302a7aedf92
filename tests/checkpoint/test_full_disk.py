"""A whole run on a disk that takes small files only: one message, exit 74, nothing left."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from holmes.job.resolve import resolve_job
from holmes.train.local import train
from holmes.train.show import Progress

LIMIT = 250_000
"""Bytes of one file: enough for everything a run writes but its checkpoint."""


def words(tmp_path: Path, *more: str) -> list[str]:
    """A tiny job on four ranks."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {n}: to be or not to be {n * 7 % 13}" for n in range(900)))
    return [
        "site=demo",
        "model={preset: gpt-1m, layers: 2, hidden: 128, heads: 2, sequence: 16, tied: false, "
        "vocabulary: 300}",
        f"data={{source: {text}, vocabulary: 300, cache: {tmp_path / 'cache'}, "
        "validation_fraction: 0}",
        "batch={global: 8, micro: 2}",
        "parallel={pipeline: 2, data: 2}",
        f"output={tmp_path / 'runs'}",
        "name=run",
        *more,
    ]


def short_of_room(tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`holmes train` in a process that is refused large files."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))

    return subprocess.run(
        [sys.executable, "-m", "holmes", "train", *words(tmp_path, *more), "--resume"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=limit,
    )


def run_here(tmp_path: Path, *more: str, resume: bool) -> None:
    """The same in this process, with as much room as there is."""
    job = resolve_job(None, words(tmp_path, *more), {})
    quiet = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    train(job, resume=resume, overwrite=False, plan_file=None, progress=quiet)


@pytest.mark.faults
def test_a_background_save_that_fails_ends_the_run_and_spares_the_older_one(
    tmp_path: Path,
) -> None:
    run_here(tmp_path, "train={steps: 2, checkpoint_every: 2}", resume=False)
    done = short_of_room(tmp_path, "train={steps: 40, checkpoint_every: 3}")
    assert done.returncode == 74, done.stderr
    assert "cannot write the checkpoint" in done.stderr
    assert "step-2" in done.stderr
    assert "Traceback" not in done.stderr
    checkpoints = tmp_path / "runs" / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step-2"]
    run_here(tmp_path, "train={steps: 4}", resume=True)
    assert {"step-2", "step-4"} <= {path.name for path in checkpoints.iterdir()}
