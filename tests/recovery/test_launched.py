"""Under torchrun: SIGTERM commits, and what Holmes' own ranks listen on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holmes.runtime.checkpoint.check import latest_good
from holmes.runtime.checkpoint.fence import generation_of
from holmes.runtime.monitor.board import read_board
from holmes.train.ledger import balance
from holmes.train.rehearsal import Rehearsal
from tests.recovery.cases import job, listening_of, words

DEADLINE = 100.0
MANY = 100_000
CANARY = "a-secret-that-stands-nowhere"
LOOPBACK = "0100007F"
ALL_INTERFACES = "0" * 32
"""Of IPv6, which takes IPv4 as well."""


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parallel
@pytest.mark.faults
def test_sigterm_under_torchrun_commits_the_step(tmp_path: Path) -> None:
    """And Holmes adds nothing to what torchrun itself opens to everybody: one store."""
    given = words(tmp_path, f"train={{steps: {MANY}, trace_steps: 0, evaluate_batches: 0}}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=4", "-m", "holmes", "train", *given, "name=t"]
    run = tmp_path / "runs" / "t"
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HOLMES_SECRET": CANARY},
    )
    try:
        limit = time.monotonic() + DEADLINE
        while lines(run) < 3:
            assert time.monotonic() < limit and process.poll() is None
            time.sleep(0.05)
        assert set(listening_of(process.pid)) == {ALL_INTERFACES}  # torchrun's own store
        ranks = [read_board(run / "monitor" / f"rank-{rank}.board").pid for rank in range(4)]
        assert {a for pid in ranks for a in listening_of(pid)} == {LOOPBACK}
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode != 0
    newest = latest_good(run, lambda line: pytest.fail(line))
    assert newest is not None, said[-2000:]
    assert newest.name == f"step-{lines(run)}"
    assert "terminated after step" in said
    assert CANARY not in said
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert run / "job.yaml" in kept
    assert not [path for path in kept if CANARY.encode() in path.read_bytes()]
    assert generation_of(run) == 1
    account = balance(run)
    assert account is not None and (account.lost, account.repeated) == (0, 0)


@pytest.mark.parallel
def test_nothing_listens_on_all_interfaces(
    on_loopback: tuple[Rehearsal, Path], tmp_path: Path
) -> None:
    """The rendezvous store of PyTorch would, left to itself."""
    rehearsal, shared = on_loopback
    plan = rehearsal.plan(job(shared))
    given = rehearsal._assignment(rehearsal.resolved.job, plan, tmp_path, steps=1)
    answers = rehearsal.session.run(
        "tests.recovery.cases:listening",
        {"assignment": given.to_json()},
        deadline_seconds=60,
        operation_seconds=60,
    )
    found = [address for answer in answers for address in answer["listening"]]
    assert set(found) == {LOOPBACK}
