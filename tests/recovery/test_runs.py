"""Ranks that die or freeze in real runs: the run goes on, and its end is bit-equal."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from holmes.errors import RankDiedError, TerminatedError
from holmes.events.metrics import read_metrics
from holmes.train.ledger import balance
from holmes.train.rehearsal import Rehearsal
from tests.recovery.cases import STEPS, equal, job, parameters

pytestmark = [pytest.mark.parallel, pytest.mark.faults]


class Runs:
    """Runs of one job in one session."""

    def __init__(self, rehearsal: Rehearsal, shared: Path, base: Path) -> None:
        self.rehearsal, self.shared, self.base = rehearsal, shared, base
        self.run("clean")

    def run(self, name: str, *faults: str, more: tuple[str, ...] = ()) -> Path:
        resolved = job(self.shared, *more)
        plan = self.rehearsal.plan(resolved)
        self.rehearsal.run(resolved, plan, self.base / name, steps=STEPS, inject=faults)
        return self.base / name

    def same_end(self, run: Path) -> None:
        """Parameters, optimiser, random state and every loss are those of the unfaulted run."""
        clean = self.base / "clean"
        assert equal(parameters(clean), parameters(run))
        losses = [[m.loss for m in read_metrics(r / "metrics.jsonl")] for r in (clean, run)]
        assert losses[0] == losses[1] and len(losses[0]) == STEPS
        found = balance(run)
        assert found is not None
        assert (found.samples, found.lost, found.repeated) == (12 * STEPS, 0, 0)


def recoveries(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "recovery.json").read_text())["recoveries"])


@pytest.fixture(scope="module")
def runs(on_loopback: tuple[Rehearsal, Path], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(*on_loopback, tmp_path_factory.mktemp("runs"))


def test_a_killed_rank_changes_nothing(runs: Runs) -> None:
    run = runs.run("killed", "kill:rank=2@step=7,phase=backward")
    runs.same_end(run)
    (found,) = recoveries(run)
    assert (found["verdict"]["class"], found["verdict"]["rank"]) == ("dead", 2)
    assert (found["resumed_from"], found["steps_lost"]) == (6, 1)
    assert found["complete"] and not found["cold"]
    assert 0 < found["total_seconds"] < 15
    kept = run / "failures" / f"generation-{found['generation'] - 1}"
    assert (kept / "evidence.json").exists() and (kept / "diagnosis.json").exists()
    assert not (run / "evidence.json").exists()


def test_a_rank_can_die_while_another_commits(runs: Runs) -> None:
    """The marker is written by rank 0 alone; who else dies at that moment tears nothing."""
    run = runs.run("marker", "kill:rank=3@step=5,phase=marker")
    runs.same_end(run)
    (found,) = recoveries(run)
    assert (found["verdict"]["class"], found["verdict"]["rank"]) == ("dead", 3)
    assert found["resumed_from"] in (3, 6)


def test_two_failures_in_a_row(runs: Runs) -> None:
    """The second one comes before the first new checkpoint."""
    run = runs.run("twice", "kill:rank=0@step=5", "kill:rank=3,times=2@step=6,phase=step")
    runs.same_end(run)
    assert [found["verdict"]["rank"] for found in recoveries(run)] == [0, 3, 3]


def test_a_start_from_nothing_is_cold(runs: Runs) -> None:
    """The process that starts ranks dies, and every rank with it."""
    zygote = runs.rehearsal.session.pool._forker._zygote
    assert zygote is not None
    seen = threading.Event()

    def kill() -> None:
        path = runs.base / "cold" / "checkpoints" / "step-3" / "COMMITTED"
        while not path.exists() and not seen.is_set():
            time.sleep(0.01)
        os.kill(zygote.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        run = runs.run("cold", "slow:rank=1,share=0.02@step=3")
    finally:
        seen.set()
        thread.join()
    runs.same_end(run)
    (found,) = recoveries(run)
    assert found["cold"] and found["total_seconds"] < 60


def test_a_crash_loop_ends(runs: Runs) -> None:
    with pytest.raises(RankDiedError) as ended:
        runs.run("loop", "kill:rank=1,times=9@step=4", more=("train.max_restarts=2",))
    assert ended.value.exit_code == 75
    assert "gave up after 2 restarts in a row" in ended.value.text()
    record = json.loads((runs.base / "loop" / "recovery.json").read_text())
    assert len(record["recoveries"]) == 2 and "gave up" in record["gave_up"]


def test_restarts_can_be_forbidden(runs: Runs) -> None:
    with pytest.raises(RankDiedError, match="rank 1 died"):
        runs.run("none", "kill:rank=1@step=4", more=("train.max_restarts=0",))
    assert not (runs.base / "none" / "recovery.json").exists()


def test_sigterm_commits_the_step_under_way(runs: Runs) -> None:
    """And what is committed ends as the unfaulted run does."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    timer = threading.Thread(target=terminate_at, args=(runs.base / "term", 4))
    timer.start()
    try:
        with pytest.raises(TerminatedError) as ended:
            runs.run("term", "slow:rank=1,share=0.05@step=3")
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)
    assert ended.value.exit_code == 143
    metrics = read_metrics(runs.base / "term" / "metrics.jsonl")
    assert 5 <= len(metrics) < STEPS
    assert f"checkpoints/step-{len(metrics)}" in (ended.value.next_step or "")


def terminate_at(run: Path, step: int) -> None:
    """SIGTERM to this process once a run has so many steps behind it."""
    limit = time.monotonic() + 30
    path = run / "metrics.jsonl"
    while time.monotonic() < limit:
        if path.exists() and len(path.read_text().splitlines()) > step:
            break
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)
