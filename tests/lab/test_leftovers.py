"""However a lab ends, nothing of it stays: holders, namespaces, control groups."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holmes.lab.quota import PREFIX, Quotas, sweep
from tests.lab.hosts import PATIENCE, alive, all_gone

pytestmark = [pytest.mark.lab, pytest.mark.faults]
OWNER = """
import json, os, sys, time
from holmes.lab.lab import Lab
from tests.lab.hosts import site
with Lab.up(site(), quotas={0: 0.5}) as lab:
    forked = os.fork() if "fork" in sys.argv else -1
    if forked == 0:
        time.sleep(60)
        os._exit(0)
    pids = [host.pid for host in lab.hosts]
    if lab.isolation == "loopback":
        pids = []
    print(json.dumps({"pids": pids, "reason": lab.reason, "forked": forked}), flush=True)
    if "raise" in sys.argv:
        raise RuntimeError("on purpose")
    time.sleep(60)
"""


def start(*words: str) -> tuple[subprocess.Popen[str], list[int], int]:
    """A child that has brought a lab up: the process, its holders, and a forked grandchild."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    answer = json.loads(process.stdout.readline())
    if not answer["pids"]:
        process.kill()
        process.communicate()
        pytest.skip(answer["reason"])
    return process, answer["pids"], answer["forked"]


def groups_of(pid: int) -> list[Path]:
    parent = Quotas().parent
    return list(Path(parent).glob(f"{PREFIX}-{pid}-*")) if parent else []


def groups_vanish(pid: int) -> bool:
    until = time.monotonic() + PATIENCE
    while groups_of(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_takes_the_hosts_down(number: signal.Signals) -> None:
    process, pids, _ = start()
    assert all(alive(pid) for pid in pids)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert all_gone(pids)
    assert groups_vanish(process.pid)


def test_an_exception_takes_the_hosts_down() -> None:
    process, pids, _ = start("raise")
    _, said = process.communicate(timeout=PATIENCE)
    assert "on purpose" in said
    assert all_gone(pids)
    assert not groups_of(process.pid)


def test_a_surviving_fork_does_not_keep_the_hosts() -> None:
    """A forked child holds the pipe to the switch open, so its end alone is not enough."""
    process, pids, forked = start("fork")
    try:
        process.kill()
        process.wait(PATIENCE)
        assert all_gone(pids)
    finally:
        os.kill(forked, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)


def test_stale_groups_are_swept_and_living_ones_stay() -> None:
    quotas = Quotas()
    if quotas.parent is None or not quotas.limit("mine", 0.5):
        pytest.skip(quotas.reason)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(PATIENCE)
    stale = Path(quotas.parent, f"{PREFIX}-{child.pid}-123-0")
    stale.mkdir()
    assert sweep(Path(quotas.parent)) == [stale.name]
    assert not stale.exists()
    assert len(groups_of(os.getpid())) == 1
    quotas.close()
    assert not groups_of(os.getpid())
