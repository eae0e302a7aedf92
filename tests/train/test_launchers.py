"""Training under torchrun and under Slurm's variables, and what is refused before it starts."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli import inside
from tests.train.test_runs import words

from holmes.launch.process import free_port

DEADLINE = 110
RANKS = 4
ROTATED = "0,2,3,1"


def in_environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def check_run(run: Path, answer: dict[str, Any]) -> None:
    """One result, a loss that fell, and a log per rank that says which logical rank it was."""
    assert answer["steps"] == 4
    assert losses(run)[-1] < losses(run)[0]
    assert json.loads((run / "plan.json").read_text())["rank_map"] == [0, 2, 3, 1]
    for launch_rank, logical in enumerate((0, 3, 1, 2)):  # of the rotation, the other way round
        assert f"[rank {logical}] step 3" in (run / "logs" / f"rank-{launch_rank}.log").read_text()


@pytest.mark.parallel
def test_under_torchrun_on_one_machine(tmp_path: Path) -> None:
    given = words(tmp_path, "train={steps: 4}", "name=t", f"parallel.rank_map=[{ROTATED}]")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={RANKS}", "-m", "holmes", "train", *given, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE, env=in_environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    check_run(tmp_path / "runs" / "t", json.loads(done.stdout))


@pytest.mark.parallel
def test_under_slurm_on_one_machine(tmp_path: Path) -> None:
    given = words(tmp_path, "train={steps: 4}", "name=s", f"parallel.rank_map=[{ROTATED}]")
    port = str(free_port("127.0.0.1"))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "holmes", "train", *given, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=in_environment(
                SLURM_PROCID=str(rank),
                SLURM_LOCALID=str(rank),
                SLURM_NODEID="0",
                SLURM_STEP_NUM_TASKS=str(RANKS),
                SLURM_STEP_NODELIST="localhost",
                SLURM_JOB_ID="7",
                MASTER_PORT=port,
            ),
        )
        for rank in range(RANKS)
    ]
    try:
        answers = [process.communicate(timeout=DEADLINE) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0] * RANKS, answers
    said = [out for out, _ in answers if out]
    assert len(said) == 1
    check_run(tmp_path / "runs" / "s", json.loads(said[0]))


def holmes(*given: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "holmes", *given]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE, env=in_environment()
    )


def test_a_refused_run_leaves_the_one_before_alone(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    kept = run / "checkpoints" / "step-5" / "COMMITTED"
    kept.parent.mkdir(parents=True)
    kept.write_text("")
    (run / "metrics.jsonl").write_text("{}\n")
    given = words(tmp_path, "name=demo")
    other = tmp_path / "other.json"
    assert inside.run("plan", *given, "model.layers=2", "-o", str(other))[0] == 0
    for code, more in (
        (65, ["--plan", str(tmp_path / "absent.json")]),
        (78, ["--plan", str(other)]),
        (78, ["batch.global=7"]),
        (65, ["data.source=/no/where"]),
    ):
        got, _, err = inside.run("train", *given, "--overwrite", *more)
        assert got == code, err
        assert err.startswith("holmes: "), "nothing before the message"
        assert kept.exists() and (run / "metrics.jsonl").exists()
    assert inside.run("rehearse", *given, "batch.global=7")[0] == 78
    assert kept.exists()


def test_a_plan_of_another_job_is_refused_before_anything_starts(tmp_path: Path) -> None:
    given = words(tmp_path, "name=demo")
    plan = str(tmp_path / "plan.json")
    assert inside.run("plan", *given, "-o", plan)[0] == 0
    for change, said in (
        ("model.layers=2", "model gpt-3x32"),
        ("batch.global=16", "a global batch of 8, the job's is 16"),
        ("train.precision=bf16", "another precision"),
        ("clusters.ib.nodes=4", "the 4 devices of site demo, the job's are the 6"),
    ):
        code, _, err = inside.run("train", *given, change, "--plan", plan)
        assert code == 78, err
        assert "the plan is not one of this job" in err
        assert said in err
        assert "bringing up" not in err


def torchrun(*given: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", "holmes", "train", *given, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE, env=in_environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parallel
def test_a_run_goes_on_under_another_launcher(tmp_path: Path) -> None:
    """Own launcher for two steps, torchrun for two, own again: as if nobody had stopped."""
    two = ("clusters.ib.nodes=1", "clusters.roce.nodes=1", "parallel={pipeline: 2, data: 1}")
    given = words(tmp_path, "optimizer={decay: constant}", *two)
    whole = holmes("train", *given, "name=whole", "train={steps: 6}")
    assert whole.returncode == 0, whole.stderr
    first = holmes("train", *given, "name=moved", "train={steps: 2}")
    assert first.returncode == 0, first.stderr
    torchrun(*given, "name=moved", "train={steps: 4}", "--resume")
    last = holmes("train", *given, "name=moved", "train={steps: 6}", "--resume")
    assert last.returncode == 0, last.stderr
    runs = tmp_path / "runs"
    steps = (runs / "moved" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == list(range(6))
    log = (runs / "moved" / "logs" / "rank-0.log").read_text()
    assert "resumed from step-2" in log and "resumed from step-4" in log
    assert parameters(runs / "whole")
    assert parameters(runs / "moved") == parameters(runs / "whole")


def parameters(run: Path) -> dict[str, str]:
    """Name to the checksum of its bytes, over all ranks' files of the last checkpoint."""
    from safetensors.numpy import load_file

    found: dict[str, str] = {}
    for path in sorted((run / "checkpoints" / "step-6").glob("*.safetensors")):
        for name, value in load_file(path).items():
            found[f"{path.name}:{name}"] = hashlib.sha256(value.tobytes()).hexdigest()
    return found
