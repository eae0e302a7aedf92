"""Node watch: one process per node that watches the ranks torchrun or Slurm started there.

A launcher learns that a process ended, not what it was doing, and a frozen rank it does not see
at all. The process is started by the node's first rank, but lives on without it and runs none of
its code: it reads the boards of the node's ranks, waits for the kernel to tell of their end, and
uses no torch. Once a rank died or froze it writes ``evidence.json`` and ``diagnosis.json``, says
in one line which rank, where and when, and ends the ranks of its node, so that the launcher can
start them again.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from holmes.diagnose.diagnose import write_diagnosis
from holmes.diagnose.records import FOLDER
from holmes.diagnose.verdict import Verdict
from holmes.diagnose.watcher import Watcher
from holmes.errors import DataError, HolmesError
from holmes.hardware.topology import Topology
from holmes.launch.environment import RankEnvironment, device_index, stands_for_all
from holmes.launch.process import describe_status
from holmes.plan.codec import plan_from_dict, plan_to_dict
from holmes.plan.plan import Plan
from holmes.runtime.monitor.board import read_board

START_SECONDS = 10.0
"""A rank waits at most so long until its watch looks, then goes on without."""
STACK_SECONDS = 0.5
"""For the stacks to be written before a rank is ended."""
GRACE_SECONDS = 2.0
"""After a failure: the launcher may end the ranks itself."""
MOST_PASSED = 1.0
"""Seconds that count between two looks: where the whole node was suspended, no rank hung."""


def start_node_watch(plan: Plan, run: Path, here: RankEnvironment) -> None:
    """Start the process for the ranks of this node; called before this rank meets the others.

    Raises:
        ConfigError: this process has no device in the site.
    """
    if not hasattr(os, "pidfd_open") or here.world_size != plan.world_size:
        return
    ranks = ranks_beside(plan, here)
    given = {
        "plan": plan_to_dict(plan),
        "run": str(run),
        "ranks": ranks,
        "old": {rank: pid for rank in ranks if (pid := _pid_on_board(run, rank)) is not None},
        "starter": os.getpid(),
    }
    with tempfile.TemporaryFile("w+") as file:  # a pipe would make this rank wait for the reader
        json.dump(given, file)
        file.seek(0)
        command = [sys.executable, "-m", __name__]
        process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:  # it closes its end once it looks; no rank has a board before that
        select.select([process.stdout], [], [], START_SECONDS)


def ranks_beside(plan: Plan, here: RankEnvironment) -> list[int]:
    """The logical ranks that run on this machine, this one's included."""
    topology = Topology(plan.site)
    if stands_for_all(topology, here):
        return list(range(plan.world_size))
    node = topology.devices[device_index(topology, here)].node.index
    on = [topology.devices[device].node.index for device in plan.rank_map]
    return [rank for rank, index in enumerate(on) if index == node]


@contextmanager
def farewell(run: Path) -> Iterator[None]:
    """Let the watch know that this process ends by itself, well or with an error of its own."""
    path = _farewell_of(run, os.getpid())
    with suppress(OSError):
        path.unlink()  # of an older process with this number
    try:
        yield
    finally:
        with suppress(OSError):  # no folder, nobody who watches
            path.touch()


class NodeWatch:
    """Watches the ranks of one node until they are gone.

    Args:
        watcher: knows what a hang is.
        ranks: logical ranks of this node.
        old: process ids on boards that an earlier start left, by rank.
        starter: process id of the rank that started this.
    """

    def __init__(
        self,
        watcher: Watcher,
        run: Path,
        ranks: Sequence[int],
        old: Mapping[int, int],
        starter: int,
    ) -> None:
        self._watcher = watcher
        self._run = run
        self._ranks = tuple(ranks)
        self._past = set(old.items())
        self._pids: dict[int, int] = {}
        self._handles: dict[int, int] = {}
        self._starter = starter
        self._terminated = False

    def run(self) -> Verdict | None:
        """Watch to the end; what failed, or None where all ranks left by themselves."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)
        now = before = time.monotonic()
        while True:
            self._meet(now)
            gone = self._wait(Watcher.interval, now)
            passed, before = time.monotonic() - before, time.monotonic()
            now += min(passed, MOST_PASSED)
            if gone:
                return self._died(gone)
            if self._terminated or not (self._handles or _alive(self._starter)):
                return None
            hang = self._watcher.look(now)
            if hang is not None and self._watcher.verdict is not None:
                self._watcher.conclude("stall", None, hang.what)
                self._end(self._watcher.verdict)
                return self._watcher.verdict

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    def _meet(self, now: float) -> None:
        """Follow ranks whose boards are new."""
        found = {r: _pid_on_board(self._run, r) for r in self._ranks if r not in self._pids}
        for rank, pid in found.items():
            if pid is None or (rank, pid) in self._past or not _has_board(pid, rank):
                continue
            with suppress(ProcessLookupError):
                self._handles[rank] = os.pidfd_open(pid)
                self._pids[rank] = pid
                self._watcher.follow(self._pids, now)

    def _wait(self, seconds: float, now: float) -> list[int]:
        """Ranks that ended without a farewell; at most so long is waited for one."""
        if not self._handles:
            time.sleep(seconds)
            return []
        poll = select.poll()
        for handle in self._handles.values():
            poll.register(handle, select.POLLIN)
        ready = {handle for handle, _ in poll.poll(1000 * seconds)}
        ended = [rank for rank, handle in self._handles.items() if handle in ready]
        left = [rank for rank in ended if _farewell_of(self._run, self._pids[rank]).exists()]
        for rank in left:
            self._forget(rank, now)
        return [rank for rank in ended if rank not in left]

    def _forget(self, rank: int, now: float) -> None:
        pid = self._pids.pop(rank)
        self._past.add((rank, pid))
        _farewell_of(self._run, pid).unlink(missing_ok=True)
        os.close(self._handles.pop(rank))
        self._watcher.follow(self._pids, now)

    def _died(self, gone: Sequence[int]) -> Verdict:
        first, *more = gone
        text = f"rank {first} died: {describe_status(_status(self._pids[first]))}"
        if more:
            text += f"; so did {', '.join(f'rank {rank}' for rank in more)}"
        verdict = self._watcher.death(first, text)
        self._watcher.conclude("death", self._watcher.seat(first), text)
        self._end(verdict)
        return verdict

    def _end(self, verdict: Verdict) -> None:
        """Say what was found, then end the ranks: the culprit first, the launcher names that."""
        where = ""
        with suppress(HolmesError):
            where = f"; see {write_diagnosis(self._run, verdict)}"
        what = "; ".join(verdict.evidence[:2])
        pid = "" if verdict.rank is None else f", pid {self._pids.get(verdict.rank)}"
        print(
            f"holmes: {verdict.text()} (machine {socket.gethostname()}{pid}): {what}{where}",
            file=sys.stderr,
            flush=True,
        )
        self._signal(self._handles, signal.SIGUSR1)
        time.sleep(STACK_SECONDS)
        culprits = [verdict.rank] if verdict.rank in self._handles else []
        self._signal(culprits, signal.SIGKILL)
        limit = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < limit and any(map(_alive, self._pids.values())):
            time.sleep(0.05)
        self._signal(self._handles, signal.SIGKILL)

    def _signal(self, ranks: Any, number: int) -> None:
        for rank in ranks:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handles[rank], number)


def main() -> None:
    """The process: what it is to watch comes on standard input."""
    given = json.load(sys.stdin)
    run = Path(given["run"])
    watcher = Watcher(plan_from_dict(given["plan"], where="the plan"), run, ())
    old = {int(rank): int(pid) for rank, pid in given["old"].items()}
    watch = NodeWatch(watcher, run, given["ranks"], old, given["starter"])
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # tells the starter
    os.close(nowhere)
    watch.run()


def _farewell_of(run: Path, pid: int) -> Path:
    """By the machine, too: nodes share the folder."""
    return run / FOLDER / f"left-{socket.gethostname()}-{pid}"


def _pid_on_board(run: Path, rank: int) -> int | None:
    try:
        return read_board(run / FOLDER / f"rank-{rank}.board").pid
    except DataError:
        return None


def _has_board(pid: int, rank: int) -> bool:
    """Whether this process writes the board; in a container of its own it has another number."""
    try:
        return f"/rank-{rank}.board" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def _alive(pid: int) -> bool:
    return _fields(pid)[:1] not in ([], ["Z"], ["X"])


def _status(pid: int) -> int | None:
    """How a process ended, while nobody has asked the kernel yet; else None."""
    fields = _fields(pid)
    return (int(fields[-1]) or None) if fields[:1] == ["Z"] else None


def _fields(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


if __name__ == "__main__":
    main()
