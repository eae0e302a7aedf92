"""Entering a host, finding a port, and what the kernel says of a process."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from holmes.errors import UnavailableError
from holmes.lab.namespace import enter

ANY_KIND = 0
STATES = {
    "R": "running",
    "S": "waiting",
    "D": "in uninterruptible sleep",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "dead",
    "X": "dead",
}


def enter_namespaces(paths: Sequence[str]) -> None:
    """Move this single-threaded process into the namespaces behind ``paths``, in order.

    A user namespace goes first: it gives the right to enter the ones it owns.

    Raises:
        UnavailableError: when a namespace is gone or may not be entered.
    """
    for path in paths:
        try:
            enter(path, ANY_KIND)
        except OSError as error:
            raise UnavailableError(
                f"a rank cannot enter its host: {error.strerror}",
                where=path,
                why="the lab that held the namespace is gone, or belongs to another user",
            ) from None


def free_port(address: str) -> int:
    """A TCP port that was free on ``address`` a moment ago.

    Raises:
        UnavailableError: when this host does not have the address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {address}: {error.strerror or error}",
            why="the rendezvous needs an address of the host of rank 0",
        ) from None


def state_of(pid: int) -> str:
    """In one word what the kernel says a process is doing; "gone" when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "gone"
    letter = stat.rpartition(")")[2].split()[0]
    return STATES.get(letter, letter)


def describe_status(status: int | None) -> str:
    """A waitpid status in words."""
    if status is None:
        return "ended for an unknown reason"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "unnamed"
        return f"killed by signal {number} ({name})"
    return f"exited with status {os.WEXITSTATUS(status)}"
