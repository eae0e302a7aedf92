"""What a process's own TCP connections sent and sent again, as the kernel counts it.

Asks the kernel about the sockets that this process holds; needs no privilege, and sees
the connections of gloo and of NCCL's socket transport alike.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

SIOCGIFADDR = 0x8915
RETRANSMITS, SEGMENTS, DUPLICATES = 100, 156, 216
"""Offsets in ``struct tcp_info`` of tcpi_total_retrans, tcpi_data_segs_out and tcpi_dsack_dups
(Linux 4.19 on)."""
ENOUGH = DUPLICATES + 4
REST_SECONDS = 0.05
"""Short steps are looked at together."""
LIST_SECONDS = 1.0
"""Connections are made at the start, so which there are is asked less often than what they sent."""


class Wire(NamedTuple):
    """From a card of this host to an address: data segments sent, and how many of them again
    because they were lost. What the receiver had already (a late acknowledgement, as on busy
    cores) does not count; it tells so a moment later, so that a count can be below zero.
    """

    interface: str
    local: str
    remote: str
    segments: int
    retransmits: int


class Connections:
    """Counts between two looks, summed over the connections with the same ends."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, int], tuple[str, str] | None] = {}
        self._counts: dict[tuple[int, int], tuple[int, int]] = {}
        self._cards: dict[str, str] = {}
        self._sockets: list[tuple[int, int]] = []
        self._last = self._listed = -LIST_SECONDS
        self.since()

    def since(self) -> tuple[Wire, ...]:
        """What was sent since the last look, the first of which is the making of this object.

        Empty where that was just now; the next look then covers both.
        """
        now = time.monotonic()
        if now - self._last < REST_SECONDS:
            return ()
        self._last = now
        if now - self._listed >= LIST_SECONDS:
            self._listed, self._sockets = now, _sockets()
        sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        ends: dict[tuple[int, int], tuple[str, str] | None] = {}
        counts: dict[tuple[int, int], tuple[int, int]] = {}
        for key in self._sockets:
            descriptor, inode = key
            try:
                if os.fstat(descriptor).st_ino != inode:
                    continue
                found = self._ends[key] if key in self._ends else _ends(descriptor)
                ends[key] = found
                if found is None:
                    continue
                counts[key] = count = _counts(descriptor)
            except OSError:  # closed meanwhile
                continue
            before = self._counts.get(key, (0, 0))
            for place in (0, 1):
                sums[found][place] += count[place] - before[place]
        self._ends, self._counts = ends, counts
        return tuple(
            Wire(self._card(local), local, remote, sent, again)
            for (local, remote), (sent, again) in sorted(sums.items())
            if sent
        )

    def _card(self, address: str) -> str:
        """The interface with an address; empty where there is none any more."""
        if address not in self._cards:
            self._cards = _addresses()
        return self._cards.setdefault(address, "")


def _sockets() -> list[tuple[int, int]]:
    """Descriptor and inode of every socket of this process."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            status = os.fstat(int(path.name))
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.append((int(path.name), status.st_ino))
    return found


def _ends(descriptor: int) -> tuple[str, str] | None:
    """Both addresses of a TCP connection between hosts; None of any other socket."""
    with socket.socket(fileno=os.dup(descriptor)) as one:
        if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
            return None
        try:
            ends = one.getsockname()[0], one.getpeername()[0]
        except OSError:  # it listens
            return None
    local, remote = (str(end).removeprefix("::ffff:") for end in ends)
    return None if local == remote else (local, remote)


def _counts(descriptor: int) -> tuple[int, int]:
    """Data segments sent, and sent again less those that came twice."""
    # With family and type given the kernel is not asked for them; the option is of any TCP socket.
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
    try:
        info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ENOUGH)
    finally:
        one.detach()
    if len(info) < ENOUGH:
        return 0, 0
    sent, again, twice = (
        int(struct.unpack_from("I", info, at)[0]) for at in (SEGMENTS, RETRANSMITS, DUPLICATES)
    )
    return sent, again - twice


def _addresses() -> dict[str, str]:
    """The interface of each IPv4 address of this host."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue
            found[socket.inet_ntoa(answer[20:24])] = name
    return found
