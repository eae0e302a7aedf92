"""Which NIC of which node reaches which: tried, not guessed.

Every node listens on each of its interfaces and, in rounds, connects from each
of its own to the same-numbered interface of the same kind on every other node.
Both ends are bound to their device where permitted, so a packet cannot come in
by another card. The payload is timed; the receiver confirms the last byte.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

from holmes.errors import UnavailableError
from holmes.hardware.site import Fabric
from holmes.probe.facts import NicFacts, NodeFacts

PAYLOAD = 2 << 20
CONNECT_SECONDS = 2.0
TRANSFER_SECONDS = 20.0


class Store(Protocol):
    """The part of torch's stores that is used."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def add(self, key: str, amount: int) -> int: ...
    def wait(self, keys: list[str], timeout: timedelta) -> None: ...


class Exchange:
    """What the nodes tell each other through the store, with a deadline on every wait."""

    def __init__(self, store: Store, rank: int, world: int, deadline_seconds: float) -> None:
        self.store, self.rank, self.world = store, rank, world
        self.deadline = timedelta(seconds=deadline_seconds)

    def all_gather(self, what: str, value: Any) -> list[Any]:
        """Everybody's value under this name, in rank order.

        Raises:
            UnavailableError: naming the first rank that did not answer in time.
        """
        self.tell(f"{what}/{self.rank}", value)
        return [
            self.wait(f"{what}/{rank}", f"rank {rank} did not answer during {what}")
            for rank in range(self.world)
        ]

    def tell(self, key: str, value: Any) -> None:
        """Let the others know a JSON value under this key."""
        self.store.set(f"probe/{key}", json.dumps(value))

    def wait(self, key: str, missing: str = "another rank did not answer") -> Any:
        """The value that somebody tells under this key.

        Raises:
            UnavailableError: saying ``missing`` when nobody does in time.
        """
        try:
            self.store.wait([f"probe/{key}"], self.deadline)
            return json.loads(self.store.get(f"probe/{key}"))
        except Exception as error:
            raise UnavailableError(
                missing,
                where=f"rank {self.rank} waited {self.deadline.total_seconds():.0f} s",
                why=str(error).splitlines()[0][:120],
                next_step="check that every node runs this and reaches the store",
            ) from None

    def leave(self) -> None:
        """Return when everybody has read what it needs: the store may go away with rank 0."""
        self.store.set(f"probe/left/{self.rank}", "")
        if self.rank == 0:
            with contextlib.suppress(Exception):
                self.store.wait([f"probe/left/{rank}" for rank in range(self.world)], self.deadline)


class Listener:
    """Accepts connections on one interface and confirms payloads, until closed."""

    def __init__(self, nic: NicFacts) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        _bind_device(self.socket, nic.interface)
        self.socket.bind((nic.address or "", 0))
        self.socket.listen(64)
        self.port: int = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=_confirm, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def _confirm(connection: socket.socket) -> None:
    """Read one payload, answer one byte."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(TRANSFER_SECONDS)
        left = PAYLOAD
        while left > 0:
            part = connection.recv(min(left, 1 << 16))
            if not part:
                return
            left -= len(part)
        connection.sendall(b"k")


def _bind_device(sock: socket.socket, interface: str) -> None:
    """Keep a socket on one card; needs no more than binding where the kernel forbids it."""
    with contextlib.suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())


def try_connection(nic: NicFacts, address: str, port: int) -> float | None:
    """Gbit/s from this NIC to an address, or None when nothing arrives."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONNECT_SECONDS)
        try:
            _bind_device(sock, nic.interface)
            sock.bind((nic.address or "", 0))
            sock.connect((address, port))
            sock.settimeout(TRANSFER_SECONDS)
            start = time.perf_counter()
            sock.sendall(bytes(PAYLOAD))
            if sock.recv(1) != b"k":
                return None
            return PAYLOAD * 8 / (time.perf_counter() - start) / 1e9
        except OSError:
            return None


def measure_reach(
    exchange: Exchange, nodes: Sequence[NodeFacts], me: int | None
) -> dict[tuple[int, int, Fabric], float]:
    """The reachability matrix of all nodes; every rank calls it, ``me`` is None for ranks
    that are not the first on their node. Rates are the slowest NIC pair of a fabric."""
    listeners = _listen(nodes[me]) if me is not None else {}
    open_ports = exchange.all_gather(
        "ports", {"node": me, "ports": {name: each.port for name, each in listeners.items()}}
    )
    ports = {entry["node"]: entry["ports"] for entry in open_ports if entry["node"] is not None}
    rows: list[tuple[int, int, str, float]] = []
    for distance in range(1, len(nodes)):
        if me is not None:
            other = (me + distance) % len(nodes)
            rows += _try_all(nodes, me, other, ports[other])
        exchange.all_gather(f"round {distance}", len(rows))
    gathered = exchange.all_gather("reach", rows)
    for listener in listeners.values():
        listener.close()
    return {(a, b, Fabric(kind)): rate for part in gathered for a, b, kind, rate in part}


def _listen(node: NodeFacts) -> dict[str, Listener]:
    listeners: dict[str, Listener] = {}
    for nic in node.nics:
        if nic.address is not None:
            with contextlib.suppress(OSError):
                listeners[nic.interface] = Listener(nic)
    return listeners


def _try_all(
    nodes: Sequence[NodeFacts], me: int, other: int, ports: dict[str, int]
) -> list[tuple[int, int, str, float]]:
    rows: list[tuple[int, int, str, float]] = []
    for fabric in Fabric:
        mine = [nic for nic in nodes[me].nics if nic.kind is fabric and nic.address]
        theirs = [nic for nic in nodes[other].nics if nic.kind is fabric and nic.address]
        rates = [
            try_connection(a, b.address or "", ports[b.interface]) if b.interface in ports else None
            for a, b in zip(mine, theirs, strict=False)
        ]
        known = [rate for rate in rates if rate is not None]
        if rates and len(known) == len(rates):
            rows.append((me, other, fabric.value, min(known)))
    return rows
