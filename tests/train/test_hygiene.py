"""However a rehearsal ends, nothing of it stays; two of them do not disturb each other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.lab.hosts import all_gone
from tests.train.test_runs import DEADLINE, finish, start, words

from holmes.lab.quota import PREFIX, Quotas

NOBODY = 65534


def wait_for_step(process: subprocess.Popen[str], metrics: Path) -> None:
    until = time.monotonic() + DEADLINE
    while not metrics.exists() or not metrics.read_text().endswith("\n"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "no first step"
        time.sleep(0.02)


def groups_vanish(pid: int) -> bool:
    parent = Quotas().parent
    until = time.monotonic() + 20
    while parent is not None and list(Path(parent).glob(f"{PREFIX}-{pid}-*")):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
"""The exit code that each signal leads to."""


@pytest.mark.lab
@pytest.mark.faults
def test_a_rehearsal_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    """Three at once, each ended by its own signal."""
    started: dict[signal.Signals, subprocess.Popen[str]] = {}
    try:
        for number in ENDS:
            folder = tmp_path / number.name
            folder.mkdir()
            given = words(folder, "train={steps: 100000}", "name=cut")
            started[number] = start("rehearse", *given, "--json")
        for number, process in started.items():
            ended_by(process, number, tmp_path / number.name / "runs" / "cut" / "metrics.jsonl")
    finally:
        for process in started.values():
            process.kill()


def ended_by(process: subprocess.Popen[str], number: signal.Signals, metrics: Path) -> None:
    """Send the signal once a step is done, and look at what is left."""
    wait_for_step(process, metrics)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 5  # the zygote, four ranks, and what holds the hosts
    process.send_signal(number)
    ended, out, err = finish(process, 30)
    assert ended == ENDS[number], err
    assert "Traceback" not in err
    assert all_gone([each.pid for each in family])
    assert groups_vanish(process.pid)
    assert all(json.loads(line)["loss"] > 0 for line in metrics.read_text().splitlines()[:-1])
    if ended > 0:
        assert json.loads(out)["error"]["exit_code"] == ended


@pytest.mark.lab
def test_two_rehearsals_side_by_side(tmp_path: Path) -> None:
    # Each measures its blocks while the other computes: what is planned by times would differ.
    fixed = ("train={steps: 3}", "parallel.partition=even", "parallel.schedule=1f1b")
    both = [
        start("rehearse", *words(tmp_path, *fixed, f"name={name}"), "--json")
        for name in ("one", "two")
    ]
    try:
        answers = [finish(process) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [code for code, _, _ in answers] == [0, 0], [err for _, _, err in answers]
    one, two = (json.loads(out) for _, out, _ in answers)
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-6)
    for kind, sent in one["bytes_per_step"].items():
        assert two["bytes_per_step"][kind]["measured"] == pytest.approx(sent["measured"], rel=0.05)


@pytest.mark.lab
@pytest.mark.skipif(os.getuid() != 0, reason="this user is unprivileged already")
def test_an_unprivileged_user_rehearses_or_is_told(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("no setpriv here")
    become = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command = [*become, sys.executable, "-m", "holmes"]
    again = (
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import torch']))"
    )
    trial = [*become, sys.executable, "-c", again]
    if subprocess.run(trial, capture_output=True, timeout=60).returncode != 0:
        pytest.skip("this user cannot run the installation")
    given = words(tmp_path, "train={steps: 2}", "name=n")
    for place in (tmp_path, *tmp_path.parents[:2], *tmp_path.rglob("*")):
        place.chmod(0o777 if place.is_dir() else 0o644)
    environment = {**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "rehearse", *given, "--json"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    if json.loads(done.stdout)["links"] == "unshaped":
        assert "links are not shaped because" in done.stderr
    (tmp_path / "runs").chmod(0o555)
    locked = subprocess.run(
        [*command, "rehearse", *given, "name=locked", "--json"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment,
        cwd=tmp_path,
    )
    assert locked.returncode == 74, locked.stderr
    assert "cannot write the run folder" in json.loads(locked.stdout)["error"]["what"]
