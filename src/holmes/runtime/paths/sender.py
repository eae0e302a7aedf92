"""The sending end: a few large flows over chosen source ports, spread anew when a path fails.

One thread and non-blocking sockets. What counts as progress is what the peer's
kernel acknowledged, so bytes sent again on a bad path are none.
"""

from __future__ import annotations

import fcntl
import selectors
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holmes.errors import DataError, UnavailableError
from holmes.planner.paths import respread
from holmes.runtime.paths.connection import DONE, Route, abort, checksum, content, open_flow
from holmes.runtime.paths.ports import MOST_TRIES, find_ports, path_of
from holmes.runtime.paths.speeds import Speeds

CHUNK = 128 << 10
LOOK_SECONDS = 0.1
TICK_SECONDS = 0.02
SIOCOUTQ = 0x5411
"""ioctl of a TCP socket: bytes sent or to be sent that are not acknowledged."""


@dataclass(frozen=True)
class Move:
    """A path that failed or slowed, ``seconds`` after the start, and the flows that left a path.

    ``paused`` is how long all flows stood still for it.
    """

    seconds: float
    path: str
    reason: str
    flows: tuple[int, ...]
    paused: float


@dataclass(frozen=True)
class Sent:
    """What became of the flows. ``paths[i]`` is where flow ``i`` ended."""

    seconds: float
    paths: tuple[str, ...]
    moves: tuple[Move, ...]


@dataclass
class _Flow:
    """``offset`` is the next byte to send; ``answer`` what came of the final checksum."""

    number: int
    size: int
    path: str
    port: int
    peer: socket.socket | None = None
    offset: int = 0
    acknowledged: int = 0
    answer: bytes = b""
    done: bool = False

    def acknowledge(self) -> None:
        """Ask the kernel how far the peer has it; stays where it was once the connection broke."""
        if self.peer is not None and not self.done:
            waiting = struct.unpack("i", fcntl.ioctl(self.peer, SIOCOUTQ, bytes(4)))[0]
            self.acknowledged = self.offset - waiting


class Sender:
    """Sends flows over the paths of a route.

    ``ports`` is what :func:`~holmes.runtime.paths.ports.find_ports` found, ``rates`` the
    paths' bytes per second where they are known (else alike), ``steer`` whether flows may
    move. Not thread-safe; one :meth:`send` at a time.
    """

    def __init__(
        self,
        route: Route,
        ports: Mapping[str, Sequence[int]],
        rates: Mapping[str, float] | None = None,
        *,
        steer: bool = True,
    ) -> None:
        self.route = route
        self._ports = {name: list(ports[name]) for name in route.interfaces}
        self._path = {port: name for name, found in ports.items() for port in found}
        self._speeds = Speeds(route.interfaces, rates)
        self._steer = steer
        self._flows: list[_Flow] = []
        self._first = 0
        self._moves: list[Move] = []

    def send(self, sizes: Sequence[int], ports: Sequence[int], seconds: float) -> Sent:
        """Send flows of these sizes (bytes) from these source ports, each its own.

        Raises:
            UnavailableError: no path is left, or they are not there after ``seconds``.
            DataError: what arrived is not what was sent.
        """
        start = time.monotonic()
        self._moves = []
        self._first = time.monotonic_ns()  # no two transfers share the number of a flow
        self._flows = [
            _Flow(number, size, self._path[port], port)
            for number, (size, port) in enumerate(zip(sizes, ports, strict=True))
        ]
        try:
            self._connect(self._flows)
            self._run(start, start + seconds)
            return Sent(
                time.monotonic() - start,
                tuple(flow.path for flow in self._flows),
                tuple(self._moves),
            )
        finally:
            for flow in self._flows:
                self._leave(flow)

    def _run(self, start: float, until: float) -> None:
        look = time.monotonic() + LOOK_SECONDS
        while left := [flow for flow in self._flows if not flow.done]:
            self._turn(left)
            now = time.monotonic()
            if now > until:
                raise UnavailableError(
                    f"{len(left)} of {len(self._flows)} flows have not arrived",
                    where=", ".join(sorted({flow.path for flow in left})),
                    why=f"after {until - start:g} s",
                )
            if now >= look:
                self._look(now, start)
                look = time.monotonic() + LOOK_SECONDS

    def _turn(self, left: Sequence[_Flow]) -> None:
        """Send and receive what can be, at most :data:`CHUNK` a flow."""
        with selectors.PollSelector() as ready:
            for flow in left:
                if flow.peer is not None:
                    write = selectors.EVENT_WRITE if flow.offset < flow.size else 0
                    ready.register(flow.peer, selectors.EVENT_READ | write, flow)
            if not ready.get_map():
                time.sleep(TICK_SECONDS)
                return
            for key, events in ready.select(TICK_SECONDS):
                try:
                    self._serve(key.data, events)
                except (BlockingIOError, InterruptedError):
                    continue
                except OSError:
                    self._leave(key.data)

    @staticmethod
    def _serve(flow: _Flow, events: int) -> None:
        assert flow.peer is not None
        if events & selectors.EVENT_WRITE:
            size = min(CHUNK, flow.size - flow.offset)
            flow.offset += flow.peer.send(content(flow.offset, size))
        if events & selectors.EVENT_READ:
            chunk = flow.peer.recv(DONE.size - len(flow.answer))
            if not chunk:
                raise ConnectionError("the receiver closed a flow")
            flow.answer += chunk
            if len(flow.answer) == DONE.size:
                if DONE.unpack(flow.answer)[0] != checksum(flow.size):
                    raise DataError(f"flow {flow.number} arrived with other bytes than were sent")
                flow.acknowledged, flow.done = flow.size, True

    def _look(self, now: float, start: float) -> None:
        """Note how fast every path is; where one stands out, spread what is left anew."""
        for flow in self._flows:
            flow.acknowledge()
        busy = {flow.path for flow in self._flows if not flow.done}
        total = dict.fromkeys(self.route.interfaces, 0)
        for flow in self._flows:
            total[flow.path] += flow.acknowledged
        found = self._speeds.note(now, total, busy)
        if found is not None and self._steer:
            path, reason = found
            moved = self._respread()
            paused = time.monotonic() - now
            self._moves.append(Move(now - start, path, reason, moved, paused))
            self._speeds.restart()

    def _respread(self) -> tuple[int, ...]:
        """Move what pays to move; a path on which the new connection fails counts as dead."""
        names = self.route.interfaces
        moved: set[int] = set()
        while True:
            left = [flow for flow in self._flows if not flow.done]
            bytes_ = [flow.size - flow.acknowledged for flow in left]
            rates = [self._speeds.rate(name) for name in names]
            held = [names.index(flow.path) for flow in left]
            wanted = respread(bytes_, rates, held)
            going = [
                (flow, names[path])
                for flow, path in zip(left, wanted, strict=True)
                if names[path] != flow.path or flow.peer is None
            ]
            for flow, _ in going:
                self._leave(flow)
            if all(self._go(flow, path) for flow, path in going):
                return tuple(sorted(moved | {flow.number for flow, _ in going}))
            moved |= {flow.number for flow, _ in going if flow.peer is not None}

    def _go(self, flow: _Flow, path: str) -> bool:
        """Reconnect a flow on a path by a port that still takes it; False if none does."""
        taken = {other.port for other in self._flows if not other.done}
        spare = [port for port in self._ports[path] if port not in taken]
        port = next((port for port in spare if path_of(self.route, port) == path), None)
        if port is None:
            tried = {port for ports in self._ports.values() for port in ports}
            fresh = range(max(tried) + 1, max(tried) + 1 + MOST_TRIES)
            found = find_ports(self.route, 1, wanted=[path], candidates=fresh)
            for name, ports in found.items():
                self._ports[name] += ports
                self._path |= dict.fromkeys(ports, name)
            port = next(iter(found[path]), None)
        if port is not None:
            flow.path, flow.port = path, port
            self._connect([flow])
        if flow.peer is None:
            self._speeds.dead(path)
        return flow.peer is not None

    def _connect(self, flows: Sequence[_Flow]) -> None:
        """Open connections; one that fails leaves its flow without, to be moved."""
        for flow in flows:
            try:
                flow.peer, flow.offset = open_flow(
                    self.route, flow.port, self._first + flow.number, flow.size
                )
            except OSError:
                continue
            flow.acknowledged, flow.answer = flow.offset, b""
            flow.peer.setblocking(False)

    @staticmethod
    def _leave(flow: _Flow) -> None:
        if flow.peer is not None:
            abort(flow.peer)
            flow.peer = None
