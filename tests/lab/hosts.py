"""Small programs that run on the hosts of a lab, for its tests."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holmes.hardware.site import Fabric, Site
from holmes.lab.lab import Lab

PATIENCE = 30.0

SITE: dict[str, Any] = {
    "name": "two",
    "clusters": [
        {
            "name": "ib",
            "nodes": 2,
            "device": {"kind": "cpu-core"},
            "nics": [
                {"kind": "infiniband", "gbit_s": 200, "count": 4},
                {"kind": "ethernet", "gbit_s": 25},
            ],
        },
        {
            "name": "roce",
            "nodes": 2,
            "device": {"kind": "cpu-core"},
            "nics": [
                {"kind": "roce", "gbit_s": 200, "count": 2},
                {"kind": "ethernet", "gbit_s": 25},
            ],
        },
    ],
    "links": [{"between": ["ib", "roce"], "kind": "ethernet", "gbit_s": 25}],
    "rehearsal": {
        "rates": {
            "ib": {"infiniband": 0.5, "ethernet": 0.2},
            "roce": {"roce": 0.05, "ethernet": 0.2},
            "links": {"ethernet": 0.1},
        }
    },
}


def site() -> Site:
    return Site.model_validate(SITE)


class Program:
    """A function running in a forked child on a host; its pid is known, its result awaited."""

    def __init__(self, lab: Lab, node: int, function: Callable[[], str]) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            try:
                lab.enter(node)
                os.write(write, function().encode())
                os._exit(0)
            except BaseException:
                os.write(write, traceback.format_exc().encode())
            finally:
                os._exit(1)
        os.close(write)
        self._read = read

    def result(self) -> str:
        """What the function returned; fails with its traceback, or after the deadline."""
        text = b""
        until = time.monotonic() + PATIENCE
        try:
            while True:
                left = max(0.0, until - time.monotonic())
                assert select.select([self._read], [], [], left)[0], "the host did not answer"
                chunk = os.read(self._read, 1 << 16)
                if not chunk:
                    break
                text += chunk
        except BaseException:
            os.kill(self.pid, signal.SIGKILL)
            raise
        finally:
            os.close(self._read)
            _, status = os.waitpid(self.pid, 0)
        assert status == 0, text.decode()
        return text.decode()


def receive(address: str, port: int) -> str:
    """Take one connection, read it to its end, acknowledge, say how many bytes came."""
    with socket.create_server((address, port)) as server:
        server.settimeout(PATIENCE)
        peer, _ = server.accept()
        with peer:
            total = 0
            while chunk := peer.recv(1 << 20):
                total += len(chunk)
            peer.sendall(b"k")
    return str(total)


def send(address: str, port: int, size: int) -> str:
    """Send ``size`` bytes; say how many seconds until they were acknowledged."""
    with connect(address, port) as peer:
        begin = time.perf_counter()
        peer.sendall(bytes(size))
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b"k"
        return str(time.perf_counter() - begin)


def connect(address: str, port: int) -> socket.socket:
    """Connect to a server that may not have started to listen."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            peer = socket.create_connection((address, port), timeout=PATIENCE)
        except ConnectionRefusedError:
            assert time.monotonic() < until, "nobody listens"
            time.sleep(0.01)
        else:
            return peer


def transfer(
    lab: Lab, source: int, goal: int, fabric: Fabric, size: int, port: int = 6000
) -> float:
    """Seconds for ``size`` bytes between two hosts over one fabric."""
    address = lab.hosts[goal].addresses[fabric]
    server = Program(lab, goal, lambda: receive(address, port))
    client = Program(lab, source, lambda: send(address, port, size))
    seconds = float(client.result())
    assert int(server.result()) == size
    return seconds


def quickest(lab: Lab, source: int, goal: int, fabric: Fabric, size: int) -> float:
    """The least of three transfers: what the link allows, whatever else the machine does."""
    return min(transfer(lab, source, goal, fabric, size) for _ in range(3))


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def all_gone(pids: list[int]) -> bool:
    """Wait until none of the processes runs; False after the deadline."""
    until = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
