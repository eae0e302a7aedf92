"""The receiving end of flows: keeps count and checksum of each across its connections."""

from __future__ import annotations

import selectors
import socket
import time
import zlib
from dataclasses import dataclass, field

from holmes.runtime.paths.connection import DONE, HAVE, HELLO

CHUNK = 256 << 10
BACKLOG = 64
LOOK_SECONDS = 0.2


@dataclass
class _Flow:
    """``peer`` is the newest connection; an older one may not add to the flow any more."""

    size: int
    have: int = 0
    crc: int = 0
    peer: socket.socket | None = None


@dataclass
class _Caller:
    """One connection: its hello so far, and then its flow."""

    hello: bytearray = field(default_factory=bytearray)
    number: int | None = None


class Receiver:
    """Takes flows on one port, in one thread. A flow that is complete is forgotten."""

    def __init__(self, address: str, port: int) -> None:
        self._server = socket.create_server((address, port), backlog=BACKLOG)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._flows: dict[int, _Flow] = {}
        self._buffer = memoryview(bytearray(CHUNK))

    def serve(self, seconds: float) -> None:
        """Take flows for so long; the sockets are closed then."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for key, _ in self._selector.select(LOOK_SECONDS):
                peer = key.fileobj
                assert isinstance(peer, socket.socket)
                if peer is self._server:
                    new, _ = self._server.accept()
                    new.setblocking(False)
                    self._selector.register(new, selectors.EVENT_READ, _Caller())
                elif peer.fileno() >= 0:  # else an earlier event of this round closed it
                    self._read(peer, key.data)
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _read(self, peer: socket.socket, caller: _Caller) -> None:
        try:
            if caller.number is None:
                chunk = peer.recv(HELLO.size - len(caller.hello))
                caller.hello += chunk
                if len(caller.hello) == HELLO.size:
                    self._begin(peer, caller)
                size = len(chunk)
            else:
                size = peer.recv_into(self._buffer)
                if size:
                    self._add(peer, caller.number, size)
        except OSError:
            size = 0
        if not size:
            self._drop(peer)

    def _begin(self, peer: socket.socket, caller: _Caller) -> None:
        """A known flow goes on where it is; its older connection is cut off."""
        caller.number, size = HELLO.unpack(caller.hello)
        flow = self._flows.setdefault(caller.number, _Flow(size))
        if flow.peer is not None:
            self._drop(flow.peer)
        flow.peer = peer
        peer.sendall(HAVE.pack(flow.have))

    def _add(self, peer: socket.socket, number: int, size: int) -> None:
        flow = self._flows[number]
        flow.have += size
        flow.crc = zlib.crc32(self._buffer[:size], flow.crc)
        if flow.have >= flow.size:
            peer.sendall(DONE.pack(flow.crc))
            del self._flows[number]

    def _drop(self, peer: socket.socket) -> None:
        if peer.fileno() >= 0:
            self._selector.unregister(peer)
            peer.close()
