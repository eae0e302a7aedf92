"""JSON lines over a socket, and errors as JSON: all that ranks and their caller exchange."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from holmes.errors import HolmesError
from holmes.launch.redact import redact

Message = dict[str, Any]

PEER_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|closed by peer|broken pipe|timed? ?out|"
    r"connectfullmesh|remote (process|peer)|socket closed",
    re.IGNORECASE,
)


class Channel:
    """JSON lines over a connected stream socket. Any thread may send; one thread receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._lines: list[bytes] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any], timeout: float | None = None) -> None:
        """Send one message.

        Raises:
            TimeoutError: the peer did not read for ``timeout`` seconds.
            OSError: the peer is gone.
            TypeError, ValueError: the message is not JSON.
        """
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            self._socket.settimeout(timeout)
            self._socket.sendall(line)

    def receive(self) -> Message | None:
        """Wait for the next message; None when the peer is gone. For a blocking socket."""
        while not self._lines:
            try:
                chunk = self._socket.recv(1 << 16)
            except ConnectionError:
                return None
            if not chunk:
                return None
            self._take(chunk)
        return _decode(self._lines.pop(0))

    def drain(self) -> tuple[list[Message], bool]:
        """The messages that have arrived, and whether the peer is gone. Never waits."""
        gone = False
        self._socket.setblocking(False)
        while True:
            try:
                chunk = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except ConnectionError:
                gone = True
                break
            if not chunk:
                gone = True
                break
            self._take(chunk)
        lines, self._lines = self._lines, []
        return [_decode(line) for line in lines], gone

    def close(self) -> None:
        with suppress(OSError):
            self._socket.close()

    def _take(self, chunk: bytes) -> None:
        self._buffer += chunk
        if b"\n" in chunk:
            *lines, rest = bytes(self._buffer).split(b"\n")
            self._lines.extend(lines)
            self._buffer = bytearray(rest)


def _decode(line: bytes) -> Message:
    message: Message = json.loads(line)
    return message


def error_message(error: BaseException) -> Message:
    """An exception as JSON values: class, exit code and the four texts, or one line; no secrets."""
    if isinstance(error, HolmesError):
        texts: Message = {
            "what": error.what,
            "where": error.where,
            "why": error.why,
            "next_step": error.next_step,
            "exit_code": error.exit_code,
        }
    else:
        line = str(error).strip().splitlines()
        texts = {"what": line[0][:500] if line else "", "exit_code": None}
    shown = {key: redact(text) if isinstance(text, str) else text for key, text in texts.items()}
    return {"class": type(error).__name__, "peer_lost": _peer_lost(error), **shown}


def _peer_lost(error: BaseException) -> bool:
    """Whether the error, or what caused it, only says that another rank went away."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionError | TimeoutError) or PEER_LOST.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
