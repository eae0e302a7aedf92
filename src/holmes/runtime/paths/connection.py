"""The wire format of flows, and opening one from a chosen source port.

A flow says who it is and how long (:data:`HELLO`), is told how many bytes of it
are there already (:data:`HAVE`), sends the rest, and at the end is told the
CRC-32 of the whole (:data:`DONE`). So a flow can break off and go on from
another source port, on another path.
"""

from __future__ import annotations

import random
import socket
import struct
import zlib
from dataclasses import dataclass

HELLO = struct.Struct("!QQ")
"""Flow number, its bytes in total."""
HAVE = struct.Struct("!Q")
DONE = struct.Struct("!I")
CONNECT_SECONDS = 0.5
"""Without an answer for this long a path is taken for dead; a lost packet is sent again earlier."""
UNSENT_BYTES = 256 << 10
"""What may wait in the kernel unsent: little, so that a flow can be stopped."""
BLOCK = 1 << 20
PATTERN = random.Random(0).randbytes(BLOCK) * 2
"""What flows carry: byte ``i`` is ``PATTERN[i % BLOCK]``."""


@dataclass(frozen=True)
class Route:
    """From where to where: addresses, the receiver's port, the sender's cards in between."""

    source: str
    target: str
    port: int
    interfaces: tuple[str, ...]


def content(offset: int, size: int) -> bytes:
    """``size`` bytes of a flow from ``offset``; at most :data:`BLOCK`."""
    start = offset % BLOCK
    return PATTERN[start : start + size]


def checksum(size: int) -> int:
    """CRC-32 of a whole flow."""
    found = 0
    for offset in range(0, size, BLOCK):
        found = zlib.crc32(content(offset, min(BLOCK, size - offset)), found)
    return found


def open_flow(route: Route, source_port: int, flow: int, size: int) -> tuple[socket.socket, int]:
    """Connect from a source port; the socket, and the bytes of the flow that are there.

    Raises:
        OSError: the port is taken, or nothing answered in :data:`CONNECT_SECONDS`.
    """
    peer = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        peer.settimeout(CONNECT_SECONDS)
        peer.bind((route.source, source_port))
        peer.connect((route.target, route.port))
        peer.sendall(HELLO.pack(flow, size))
        return peer, HAVE.unpack(receive(peer, HAVE.size))[0]
    except BaseException:
        abort(peer)
        raise


def receive(peer: socket.socket, size: int) -> bytes:
    """Exactly so many bytes. Raises ConnectionError where the peer ends before."""
    found = b""
    while len(found) < size:
        chunk = peer.recv(size - len(found))
        if not chunk:
            raise ConnectionError("the peer closed the connection")
        found += chunk
    return found


def abort(peer: socket.socket) -> None:
    """Close at once; what is unsent is thrown away and the port is free again."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
