"""The lab's end of the pipe to its switch process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

from holmes.errors import HolmesError, UnavailableError
from holmes.lab.wiring import Wiring

ANSWER_SECONDS = 60.0
END_SECONDS = 1.0
"""Of a switch that was asked to end; then it is killed, and its hosts die with it."""


class RefusedError(Exception):
    """This machine does not allow a lab of this kind; the message says what is missing."""


class SwitchClient:
    """A running switch process.

    Attributes:
        user: whether its namespaces are inside a user namespace.
        holders: process ids that hold the hosts, in node order.
        unshaped: why links have no shaper; empty when they have.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, user: bool) -> None:
        self.user = user
        self.holders: tuple[int, ...] = ()
        self.unshaped = ""
        self._process = process
        self._lock = threading.Lock()
        self._received = b""

    @classmethod
    def start(cls, wiring: Wiring, *, user: bool, groups: str | None = None) -> SwitchClient:
        """Start the process and build the network.

        ``groups`` is the folder of control groups to sweep if the lab is killed.

        Raises:
            RefusedError: the machine does not allow it.
            UnavailableError: the process did not answer in time or at all.
        """
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "holmes.lab.switch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the lab, which then ends the switch
                bufsize=0,
            )
        except OSError as error:
            raise UnavailableError(
                "the lab's switch process cannot be started",
                where=sys.executable,
                why=error.strerror,
                next_step="check that this Python may be run by the user Holmes runs as",
            ) from error
        client = cls(process, user=user)
        try:
            answer = client.order("up", user=user, groups=groups, wiring=asdict(wiring))
        except BaseException:
            client.close()
            raise
        client.holders = tuple(answer["holders"])
        client.unshaped = answer["unshaped"]
        return client

    def order(self, order: str, **details: object) -> Any:
        """Send one order and wait for its answer. Safe to call from several threads.

        Raises:
            RefusedError, UnavailableError: as :meth:`start`.
            HolmesError: the switch failed in a way that is a bug.
        """
        with self._lock:
            line = json.dumps({"order": order, **details}).encode() + b"\n"
            self._send(line)
            answer = json.loads(self._line())
        if "refused" in answer:
            raise RefusedError(answer["refused"])
        if "failed" in answer:
            raise HolmesError(
                "the lab's switch failed", where=order, why=answer["failed"] + answer["trace"]
            )
        return answer["ok"]

    def part(self) -> None:
        """Ask the switch to end, without waiting for it. May be called twice."""
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        # Said aloud: forked children may still hold the pipe open, so its end may not show.
        with contextlib.suppress(UnavailableError), self._lock:
            self._send(b'{"order": "down"}\n')
        self._process.stdin.close()

    def close(self) -> None:
        """End the switch, and with it every host. May be called twice."""
        process = self._process
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.closed:
            return
        self.part()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            raise self._gone()
        try:
            while line:
                line = line[os.write(self._process.stdin.fileno(), line) :]
        except BrokenPipeError as error:
            raise self._gone() from error

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        until = time.monotonic() + ANSWER_SECONDS
        while b"\n" not in self._received:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise UnavailableError(
                    "the lab's switch does not answer",
                    where=f"process {self._process.pid}",
                    why=f"no answer within {ANSWER_SECONDS:g} s",
                )
            chunk = self._process.stdout.read(1 << 20)
            if not chunk:
                raise self._gone()
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        return line

    def _gone(self) -> UnavailableError:
        said = b""
        if self._process.stderr is not None and not self._process.stderr.closed:
            said = self._process.stderr.read() if self._process.poll() is not None else b""
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        return UnavailableError(
            "the lab's switch process has ended",
            where=f"process {self._process.pid}",
            why=last[0] if last else "it was killed, or the lab was taken down",
            next_step="bring the lab up again",
        )
