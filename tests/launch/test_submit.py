"""Submitting to Slurm: through a stand-in for sbatch, and through one for submitit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from holmes.errors import ConfigError, UnavailableError
from holmes.job.sections import Launch
from holmes.launch.environment import from_environ
from holmes.launch.scripts import slurm_script, torchrun_command
from holmes.launch.submit import submit_script, submit_with_submitit
from tests.launch.plans import plan_for, two_clusters
from tests.launch.test_environment import SLURM

COMMAND = ["holmes", "train", "job.yaml"]
ASKED = Launch(account="lab", partition="gpu", minutes=90)


def stand_in(
    folder: Path, body: str, monkeypatch: pytest.MonkeyPatch, name: str = "sbatch"
) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_sbatch_reads_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, f'cat > {tmp_path}/seen; echo "$@" >&2; echo "42;cluster"', monkeypatch)
    script = slurm_script(plan_for(), COMMAND)
    assert submit_script(script) == "42"
    assert (tmp_path / "seen").read_text() == script


def test_a_refusal_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, 'echo "invalid partition" >&2; exit 1', monkeypatch)
    with pytest.raises(UnavailableError, match="invalid partition"):
        submit_script("#!/bin/bash\n")


def test_without_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="--print"):
        submit_script("#!/bin/bash\n")


def test_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Executor:
        def __init__(self, folder: str) -> None:
            seen["folder"] = folder

        def update_parameters(self, **given: Any) -> None:
            seen.update(given)

        def submit(self, run: list[str]) -> Any:
            seen["run"] = run
            return SimpleNamespace(job_id="7")

    module = ModuleType("submitit")
    module.SlurmExecutor = Executor  # type: ignore[attr-defined]
    module.helpers = SimpleNamespace(CommandFunction=list)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "submitit", module)
    assert submit_with_submitit(plan_for(), COMMAND, tmp_path, ASKED) == "7"
    assert (seen["nodes"], seen["ntasks_per_node"]) == (4, 1)
    assert seen["run"][:2] == ["bash", "-c"] and "exec holmes train job.yaml" in seen["run"][2]
    uneven = plan_for(two_clusters(devices=2), rank_map=(0, 1, 2, 4))
    with pytest.raises(ConfigError, match="unequal"):
        submit_with_submitit(uneven, COMMAND, tmp_path, ASKED)
    with pytest.raises(ConfigError, match="no time limit"):
        submit_with_submitit(plan_for(), COMMAND, tmp_path, Launch())


def test_without_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UnavailableError, match=r"holmes\[slurm\]"):
        submit_with_submitit(plan_for(), COMMAND, tmp_path, ASKED)


SBATCH = """cp "$1" {folder}/batch.sh; echo Submitted batch job 4711"""
SRUN = """\
while [ "${{1#--}}" != "$1" ]; do
  case "$1" in --output) shift 2 ;; --error) shift 2 ;; *) shift ;; esac
done
exec "$@"
"""


def test_what_submitit_itself_submits_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batch script, run here as one task of node 2, with stand-ins for Slurm's programs."""
    pytest.importorskip("submitit")
    stand_in(tmp_path, SBATCH.format(folder=tmp_path), monkeypatch)
    stand_in(tmp_path, SRUN.format(), monkeypatch, name="srun")
    show = ["bash", "-c", 'echo "seen $HOLMES_NODE ${#HOLMES_SECRET}"']
    assert submit_with_submitit(plan_for(), show, tmp_path / "log", ASKED) == "4711"
    script = (tmp_path / "batch.sh").read_text()
    for line in ("nodes=4", "ntasks-per-node=1", "account=lab", "partition=gpu", "time=90"):
        assert f"#SBATCH --{line}\n" in script
    task = {"SLURM_JOB_ID": "4711", "SLURM_NODEID": "2", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}
    counts = {"SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NODELIST": "n[0-3]"}
    done = subprocess.run(
        ["bash", str(tmp_path / "batch.sh")],
        env={**os.environ, **task, **counts},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "seen roce-0 32" in done.stdout


def test_what_a_job_asks_of_slurm() -> None:
    script = slurm_script(plan_for(), COMMAND, ASKED)
    for line in ("account=lab", "partition=gpu", "time=90"):
        assert f"#SBATCH --{line}\n" in script
    assert "account" not in slurm_script(plan_for(), COMMAND, Launch())
    with pytest.raises(ValidationError):
        Launch(account="a\n#SBATCH --uid=0")


def test_ports_are_settings() -> None:
    assert ':-4711}"' in torchrun_command(plan_for(), "ib-0", COMMAND, 4711)
    found = from_environ(SLURM, (5000, 5009))
    assert found.master_port == 5000 + 12345 % 10


def test_the_node_level_names_of_the_site_are_in_the_script() -> None:
    script = slurm_script(plan_for(two_clusters(named=True)), COMMAND)
    assert "adapters ibp1s0 ibp2s0" in script and "NCCL_SOCKET_IFNAME" in script
