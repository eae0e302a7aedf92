"""The caller's side of the zygote: start it, have ranks forked, learn how they end."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holmes.errors import UnavailableError, WriteError
from holmes.launch.failures import Standing, carried
from holmes.launch.wire import Channel, Message

PACKET_BYTES = 1 << 20
START_SECONDS = 120.0
SEAT_SECONDS = 30.0
END_SECONDS = 1.0
"""Of a zygote that was asked to end; then the kernel ends it, and its ranks with it."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Seat:
    """Where a rank lives: its host's namespaces, its variables, its log."""

    number: int
    enter: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    threads: int


@dataclass(frozen=True)
class Member:
    """A rank that took its seat."""

    seat: int
    pid: int
    channel: Channel


class Forker:
    """Owns the zygote process. Not to be shared by threads."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._spawned: dict[int, int] = {}
        self._refused: dict[int, str] = {}
        self._ready = False
        self._failed: str | None = None
        self.statuses: dict[int, int] = {}

    @property
    def alive(self) -> bool:
        """Whether the zygote can be asked for ranks."""
        return self._control is not None

    def fileno(self) -> int:
        assert self._control is not None
        return self._control.fileno()

    def launch(self) -> None:
        """Start the zygote, which imports torch while the caller does something else.

        Raises:
            WriteError: the log cannot be written.
        """
        if self._zygote is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "holmes.launch.zygote", str(theirs.fileno())]
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log, theirs:
                self._zygote = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C reaches the caller, who ends the ranks
                    env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
                )
        except OSError as error:
            ours.close()
            raise WriteError(
                f"cannot start ranks: {error.strerror}", where=str(error.filename)
            ) from None
        self._control = ours

    def start(self) -> None:
        """Start the zygote where that is not done yet, and wait until torch is imported.

        Raises:
            UnavailableError: torch is missing, or nothing was heard in time.
            WriteError: the log cannot be written.
        """
        self.launch()
        self._wait(lambda: self._ready or self._failed is not None, START_SECONDS)
        if not self._ready:
            reason = self._failed or f"not ready after {START_SECONDS:g} s, or it ended"
            self.close()
            raise UnavailableError(
                f"the process that starts ranks failed: {reason}",
                where=str(self._log),
                next_step="check that torch is installed: pip install '.[train]' in the checkout",
            )

    def spawn(self, seats: Sequence[Seat]) -> list[Member]:
        """Fork a rank for each seat and wait until all of them sit.

        Raises:
            UnavailableError: a fork was refused, a host cannot be entered, or no
                answer came within the deadline.
        """
        channels = {seat.number: self._request(seat) for seat in seats}
        limit = time.monotonic() + SEAT_SECONDS
        wanted = set(channels)
        self._wait(lambda: wanted <= set(self._spawned) | set(self._refused), SEAT_SECONDS)
        members: list[Member] = []
        for seat in seats:
            number = seat.number
            if number not in self._spawned:
                reason = self._refused.get(number, "no answer, or it ended")
                raise UnavailableError(f"rank {number} cannot be started: {reason}")
            member = Member(number, self._spawned[number], channels[number])
            _seated(member, seat, limit - time.monotonic())
            members.append(member)
        return members

    def poll(self) -> None:
        """Take in what the zygote has said. Never waits."""
        while self._control is not None and select.select([self._control], [], [], 0)[0]:
            try:
                packet = self._control.recv(PACKET_BYTES)
            except ConnectionError:
                packet = b""
            if not packet:
                self._hang_up()
                return
            self._hear(json.loads(packet))

    def signal(self, pids: Sequence[int], number: int) -> None:
        """Send a signal to those of ``pids`` that are living children of the zygote."""
        self._ask({"op": "signal", "pids": list(pids), "signal": int(number)})

    def end(self, pids: Sequence[int], seconds: float = 5.0) -> None:
        """Kill ranks and wait until the kernel has taken them back."""
        self.poll()
        left = [pid for pid in pids if pid not in self.statuses]
        self.signal(left, signal.SIGKILL)
        self._wait(lambda: all(pid in self.statuses for pid in left), seconds)
        if self._control is not None and any(pid not in self.statuses for pid in left):
            self.close()  # a zygote that does not answer; its end is theirs

    def status(self, pid: int, seconds: float = 1.0) -> int | None:
        """How a rank ended (a waitpid status); None when that cannot be learnt in time."""
        self._wait(lambda: pid in self.statuses, seconds)
        return self.statuses.get(pid)

    def close(self) -> None:
        """End the zygote and with it all its ranks. Idempotent."""
        self._hang_up()
        if self._zygote is not None:
            if not self._ready:
                self._zygote.kill()  # still importing, and without ranks
            try:
                self._zygote.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._zygote.kill()  # its ranks are killed by the kernel with it
                self._zygote.wait()
            self._zygote = None

    def _hang_up(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _request(self, seat: Seat) -> Channel:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._spawned.pop(seat.number, None)
        self._refused.pop(seat.number, None)
        message = {
            "op": "spawn",
            "seat": seat.number,
            "enter": list(seat.enter),
            "environment": dict(seat.environment),
            "log": str(seat.log),
            "threads": seat.threads,
        }
        with theirs:
            self._ask(message, [theirs.fileno()])
        return Channel(ours)

    def _ask(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        if self._control is None:
            return
        self._control.settimeout(SEAT_SECONDS)
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], list(descriptors))
        except OSError:
            self._hang_up()

    def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        """Take in messages until ``done()``, the zygote's end, or the deadline."""
        limit = time.monotonic() + seconds
        self.poll()
        while not done() and self._control is not None:
            left = limit - time.monotonic()
            if left <= 0:
                return
            select.select([self._control], [], [], left)
            self.poll()

    def _hear(self, message: Message) -> None:
        match message["event"]:
            case "ready":
                self._ready = True
            case "failed":
                self._failed = message["reason"]
            case "spawned":
                self._spawned[message["seat"]] = message["pid"]
                self.statuses.pop(message["pid"], None)  # the kernel may reuse a number
            case "refused":
                self._refused[message["seat"]] = message["reason"]
            case "exited":
                self.statuses[message["pid"]] = message["status"]


def _seated(member: Member, seat: Seat, seconds: float) -> None:
    """Wait for the word of a fresh rank that it sits.

    Raises:
        HolmesError: what the rank said went wrong, or that it said nothing.
    """
    message: Message | None = None
    with suppress(OSError):
        if select.select([member.channel], [], [], max(0.0, seconds))[0]:
            messages, _ = member.channel.drain()
            message = messages[0] if messages else None
    if message is None:
        raise UnavailableError(
            f"rank {seat.number} did not come up", where=f"pid {member.pid}, log {seat.log}"
        )
    if message["kind"] == "error":
        standing = Standing(seat.number, member.pid, str(seat.log))
        raise carried("taking its seat", standing, message)
