"""Under torchrun: who died or froze is named, and the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from holmes.launch.environment import RankEnvironment
from holmes.runtime.monitor.board import read_board
from holmes.train.node_watch import ranks_beside
from tests.diagnose.cases import plan
from tests.recovery.cases import words

DEADLINE = 60.0
TWO = (
    "site={name: flat, clusters: [{name: a, nodes: 2, device: {kind: cpu-core, count: 1}, "
    "nics: [{kind: ethernet, gbit_s: 1.0}]}], rehearsal: {scale: 1}}"
)


class Launched:
    """torchrun with two ranks and one restart, until the test is over."""

    def __init__(self, folder: Path) -> None:
        given = words(
            folder,
            TWO,
            "parallel={pipeline: 2, data: 1}",
            "train={steps: 100000, trace_steps: 0, evaluate_every: 3, evaluate_batches: 2, "
            "checkpoint_every: 5, keep_checkpoints: 2, deadline_seconds: 20}",
        )
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node=2", "--max-restarts=1", "-m", "holmes", "train"]
        self.run = folder / "runs" / "t"
        self.said = folder / "said"
        with self.said.open("w") as file:
            self.process = subprocess.Popen(
                [*command, *given, "name=t"],
                stdout=subprocess.DEVNULL,
                stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def pids(self, other_than: set[int]) -> list[int]:
        """Of both ranks, once their boards show a later step than their first."""
        limit = time.monotonic() + DEADLINE
        while True:
            assert time.monotonic() < limit and self.process.poll() is None, self.said.read_text()
            paths = [self.run / "monitor" / f"rank-{rank}.board" for rank in (0, 1)]
            boards = [read_board(path) for path in paths if path.exists()]
            if len(boards) == 2 and all(
                b.pid not in other_than and b.operation and b.step > 3 for b in boards
            ):
                return [board.pid for board in boards]
            time.sleep(0.05)

    def line(self, start: str, seconds: float) -> str:
        """The line that begins like this; fails when it is not there in time."""
        limit = time.monotonic() + seconds
        while True:
            found = [x for x in self.said.read_text().splitlines() if x.startswith(start)]
            if found:
                assert len(found) == 1
                return found[0]
            assert time.monotonic() < limit, self.said.read_text()
            time.sleep(0.02)


@pytest.mark.parallel
@pytest.mark.faults
def test_a_frozen_and_a_killed_rank_are_named_under_torchrun(tmp_path: Path) -> None:
    launched = Launched(tmp_path)
    try:
        first = launched.pids(set())
        os.kill(first[1], signal.SIGSTOP)
        frozen = launched.line("holmes: frozen", 12)
        assert "rank 1, host a-1" in frozen and f"pid {first[1]}" in frozen
        assert " step " in frozen
        second = launched.pids(set(first))  # torchrun has started the ranks again
        kept = launched.run / "failures" / "generation-1" / "diagnosis.json"
        assert json.loads(kept.read_text())["verdict"]["class"] == "frozen"
        os.kill(second[0], signal.SIGKILL)  # the one that started the watch
        dead = launched.line("holmes: dead", 3)
        assert "rank 0, host a-0" in dead and f"pid {second[0]}" in dead and " step " in dead
        launched.process.wait(timeout=20)
        assert launched.process.returncode == 1
        verdict = json.loads((launched.run / "diagnosis.json").read_text())["verdict"]
        assert (verdict["class"], verdict["rank"], verdict["host"]) == ("dead", 0, "a-0")
    finally:
        launched.process.kill()
        launched.process.wait()


def test_ranks_beside() -> None:
    """One machine for all nodes has all ranks, a node of its own those of its devices."""
    everywhere = RankEnvironment(1, 4, 1, None, 0, "127.0.0.1", 1, "desk", one_host=True)
    assert ranks_beside(plan(), everywhere) == [0, 1, 2, 3]
    alone = replace(everywhere, local_rank=0, node_name="a-2", one_host=False)
    assert ranks_beside(plan(), alone) == [plan().rank_map.index(2)]
