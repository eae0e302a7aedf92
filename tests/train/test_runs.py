"""Whole runs from the command line: equality, rehearsal, a killed rank, resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from holmes.lab.probe import capabilities
from holmes.runtime.checkpoint.folders import latest_committed
from holmes.runtime.checkpoint.read import read_checkpoint

DEADLINE = 100


def words(tmp_path: Path, *more: str) -> list[str]:
    """A tiny job on the demo site, with text of its own."""
    text = tmp_path / "text"
    text.mkdir(exist_ok=True)
    for i in range(4):
        lines = [f"line {n} of play {i}: to be or not to be {n * 7 % 13}" for n in range(400)]
        (text / f"{i}.txt").write_text("\n".join(lines))
    return [
        "site=demo",
        "model={preset: gpt-1m, layers: 3, hidden: 32, heads: 2, sequence: 16, tied: false, "
        "vocabulary: 300}",
        f"data={{source: {text}, vocabulary: 300, cache: {tmp_path / 'cache'}}}",
        "batch={global: 8, micro: 1}",
        "parallel={pipeline: 2, data: 2}",
        f"output={tmp_path / 'runs'}",
        *more,
    ]


def start(command: str, *given: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "holmes", command, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str], seconds: float = DEADLINE) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


def ok(command: str, *given: str) -> dict[str, Any]:
    code, out, err = finish(start(command, *given))
    assert code == 0, err
    value: dict[str, Any] = json.loads(out)
    return value


@pytest.mark.parallel
@pytest.mark.parametrize("layout", ["{pipeline: 4, data: 1}", "{pipeline: 2, data: 2}"])
def test_verify_against_the_plain_run(tmp_path: Path, layout: str) -> None:
    found = ok("verify", *words(tmp_path, f"parallel={layout}"), "--steps", "5", "--json")
    assert found["max_relative_difference"] <= 1e-6
    assert found["max_gradient_difference"] <= 1e-6
    assert found["bit_equal"] or "data: 2" in layout
    assert found["losses"] == pytest.approx(found["reference_losses"], rel=1e-6)
    assert found["losses"][-1] < found["losses"][0]
    assert len(found["parameters"]) > 20


LLAMA = (
    "model={preset: llama-1m, layers: 3, hidden: 32, key_heads: 2, sequence: 16, vocabulary: 300, "
    "tied: false}"
)


@pytest.mark.parallel
def test_another_family_trains_and_verifies(tmp_path: Path) -> None:
    given = words(tmp_path, LLAMA, "parallel={pipeline: 4, data: 1}")
    found = ok("verify", *given, "--steps", "5", "--json")
    assert found["bit_equal"]
    assert found["losses"][-1] < found["losses"][0]
    assert len(found["parameters"]) == 2 + 3 * 9 + 1


@pytest.mark.lab
@pytest.mark.skipif(not capabilities().shaped, reason="links cannot be shaped here")
def test_placements_give_equal_losses_and_keep_to_their_networks(tmp_path: Path) -> None:
    given = words(tmp_path, "train={steps: 6}", "name=r")
    both = ok("rehearse", *given, "--placement", "holmes", "--placement", "megatron", "--json")
    holmes, megatron = both["holmes"], both["megatron"]
    # Not to the bit: cuts follow measured times, and with another cut the parts of a tensor that
    # replicas hold, whose squares add up to the norm that clips, have other borders.
    assert holmes["loss"] == pytest.approx(megatron["loss"], rel=1e-6)
    assert set(megatron["bytes_per_step"]) == {"ethernet"}
    assert set(holmes["bytes_per_step"]) == {"ethernet", "infiniband", "roce"}
    for result in (holmes, megatron):
        folder = Path(result["run"])
        assert {"job.yaml", "plan.json", "metrics.jsonl", "trace.jsonl", "report.html"} <= {
            path.name for path in folder.iterdir()
        }
        assert latest_committed(folder) is not None
    predicted = json.loads((Path(holmes["run"]) / "predicted.jsonl").read_text().splitlines()[0])
    measured = (Path(holmes["run"]) / "trace.jsonl").read_text().splitlines()
    assert predicted["id"] in {json.loads(line)["id"] for line in measured}


@pytest.mark.faults
def test_a_killed_rank_is_named_and_the_run_resumes_bit_equal(tmp_path: Path) -> None:
    given = words(tmp_path, "train={steps: 12, checkpoint_every: 2, max_restarts: 0}")
    beside = start("train", *given, "name=whole")
    try:
        cut_and_resume(tmp_path, given)
        assert finish(beside)[0] == 0
    finally:
        beside.kill()
    ends = [latest_committed(tmp_path / "runs" / name) for name in ("whole", "cut")]
    assert [end.name for end in ends if end] == ["step-12", "step-12"]
    whole, cut = (read_checkpoint(end).tensors for end in ends if end)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def cut_and_resume(tmp_path: Path, given: list[str]) -> None:
    """Kill a rank of the run `cut`, read what is said, and go on with it."""
    process = start("train", *given, "name=cut")
    metrics = tmp_path / "runs" / "cut" / "metrics.jsonl"
    until = time.monotonic() + DEADLINE
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
        assert time.monotonic() < until, "no fifth step"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    leaves = [c for c in psutil.Process(process.pid).children(recursive=True) if not c.children()]
    os.kill(leaves[-1].pid, signal.SIGKILL)
    code, _, err = finish(process, 15)
    assert code == 75, err
    assert "rank" in err
    assert "step-" in err
    assert "Traceback" not in err
    ok("train", *given, "name=cut", "--resume", "--json")
