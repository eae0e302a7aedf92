"""The benchmark for GPUs, as far as a machine without one can check it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from holmes.plan.plan import Transport
from holmes.runtime.communicator import Communicator
from holmes.runtime.groups import GroupOptions, open_groups
from holmes.runtime.rendezvous import Rendezvous

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "gpu"
SCRIPT = FOLDER / "groups.py"
TINY = {
    "family": "llama",
    "layers": 2,
    "hidden": 32,
    "heads": 4,
    "key_heads": 2,
    "sequence": 16,
    "vocabulary": 300,
}
SITE = """
name: gpu
clusters:
  - name: single0
    nodes: 1
    device: {kind: cpu-core, count: 1}
    nics: [{kind: ethernet, gbit_s: 10}]
"""


def _loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return _loaded("groups")


@pytest.fixture
def job(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The benchmark's job on a hand-written site, since probing measures."""

    def probed(*words: str) -> str:
        Path(words[-1]).write_text(SITE)
        return ""

    monkeypatch.setattr(benchmark, "holmes", probed)
    path: Path = benchmark.write_job(tmp_path, 1)
    return path


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["groups", "train"])
def test_without_a_gpu_it_says_so_and_writes_nothing(name: str) -> None:
    record = ROOT / "benchmarks" / "records" / f"gpu_{name}.json"
    before = record.read_bytes() if record.exists() else None
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("skipped: ") and done.stdout.count("\n") == 1
    assert (record.read_bytes() if record.exists() else None) == before


def test_its_groups_are_opened_by_the_runtime(benchmark: ModuleType, job: Path) -> None:
    plan = benchmark.plan_with_groups(job, 1)
    modules = {group.name: group.transport.net_name for group in plan.groups}
    assert modules["world"] is None
    assert modules["data.socket"] == "Socket"
    options = GroupOptions(interface_override="lo", start_seconds=20.0)
    groups = open_groups(plan, 0, Rendezvous("127.0.0.1", 0, True), options)
    try:
        found = {
            name: benchmark.check_one(comm, torch.device("cpu"))
            for name, comm in groups.communicators.items()
        }
    finally:
        groups.close()
    assert set(found) == set(modules)
    assert all(check["worst_difference"] == 0.0 for check in found.values())


def test_a_wrong_collective_is_noticed(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holmes.runtime import collectives

    monkeypatch.setattr(collectives, "all_reduce", lambda comm, tensor: tensor.add_(1))
    comm = Communicator("data.s0", (0,), 0, Transport(None).name, "gloo", None, None)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="off by 1"):
        benchmark.check_one(comm, torch.device("cpu"))


def test_its_job_is_one_that_can_be_planned(job: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holmes", "plan", str(job), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rank_map"] == [0]


def test_the_plain_loop_trains_the_job_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = _loaded("train")

    def probed(*words: str) -> str:
        Path(words[-1]).write_text(SITE)
        return ""

    monkeypatch.setattr(training.gpu, "holmes", probed)
    job = training.write_job(tmp_path, TINY)
    assert len(training.plain_loop(job, compiled=False, device="cpu", steps=2)) == 2
    parameters = 2 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 128) + 32 * 300
    tokens = training.MICRO * training.MICROBATCHES * 16
    assert training.step_flops(TINY) == pytest.approx(6 * parameters * tokens, rel=0.1)
    assert training.gemm_rate(64, "cpu", repeats=2) > 0
