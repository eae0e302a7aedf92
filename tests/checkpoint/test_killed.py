"""Killed at any moment of a save, a run goes on from the newest good checkpoint, bit-equal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from holmes.runtime.checkpoint.check import latest_good, pointer_damage, run_damages
from holmes.runtime.checkpoint.folders import MARKER, checkpoint_folder, committed, leftovers
from holmes.runtime.checkpoint.write import PHASES
from tests.checkpoint.killed import DEADLY_SAVE, STEPS, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders named after the phase that each run was killed in."""
    root = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.checkpoint.killed", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(PHASES, signal.SIGKILL)
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Parameters of the run that nobody killed."""
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_a_save(killed: Path, whole: dict[str, torch.Tensor], phase: str) -> None:
    run = killed / phase
    counts = phase in ("latest", "prune")
    survivor = checkpoint_folder(run, DEADLY_SAVE if counts else DEADLY_SAVE - 1)
    assert latest_good(run, pytest.fail) == survivor
    assert list(run_damages(run)) == []
    for half in leftovers(run):
        assert not half.is_dir() or half not in committed(run)
    resumed = train(run)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert leftovers(run) == []
    assert [p.name for p in committed(run)] == [f"step-{STEPS - 1}", f"step-{STEPS}"]
    assert pointer_damage(run) is None


def test_without_the_random_state_the_run_would_differ(
    tmp_path: Path, whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the equality above."""
    train(tmp_path)
    (checkpoint_folder(tmp_path, STEPS) / MARKER).unlink()
    monkeypatch.setattr("tests.checkpoint.killed.restore_random", lambda *given: None)
    resumed = train(tmp_path)
    assert not all(torch.equal(resumed[name], whole[name]) for name in whole)
