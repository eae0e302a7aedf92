"""Socket statistics of a host as the kernel shows them, without entering it."""

from __future__ import annotations

import socket
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ESTABLISHED = 1


@dataclass(frozen=True)
class Connection:
    """One TCP connection: its ends, bytes that wait to be sent, retransmissions in a row."""

    local: str
    remote: str
    unsent: int
    retransmits: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def connections(pid: int) -> list[Connection]:
    """Established TCP connections in the network namespace of a process, IPv4 and mapped IPv4;
    empty where it is gone."""
    found: list[Connection] = []
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[3], 16) == ESTABLISHED:
                unsent = int(fields[4].partition(":")[0], 16)
                ends = _address(fields[1]), _address(fields[2])
                found.append(Connection(*ends, unsent, int(fields[6], 16)))
    return found


def _address(text: str) -> str:
    """The address of ``<hex address>:<hex port>``; of a mapped one the IPv4 part."""
    raw = text.partition(":")[0][-8:]
    return socket.inet_ntoa(struct.pack("<I", int(raw, 16)))
