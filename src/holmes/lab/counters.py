"""Byte counters of network interfaces, as the kernel keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holmes.errors import UnavailableError

OWN = Path("/proc/self/net/dev")


@dataclass(frozen=True)
class InterfaceCounters:
    """Totals since the interface was made; bytes include the packet headers."""

    tx_bytes: int
    rx_bytes: int
    tx_packets: int
    rx_packets: int

    def __sub__(self, earlier: InterfaceCounters) -> InterfaceCounters:
        """What has passed since ``earlier``."""
        return InterfaceCounters(
            self.tx_bytes - earlier.tx_bytes,
            self.rx_bytes - earlier.rx_bytes,
            self.tx_packets - earlier.tx_packets,
            self.rx_packets - earlier.rx_packets,
        )


def read_counters(path: Path = OWN) -> dict[str, InterfaceCounters]:
    """Counters per interface of the calling process's network namespace.

    ``path`` may be another process's ``/proc/<pid>/net/dev``; packets that the
    kernel merges for speed count their headers once.

    Raises:
        UnavailableError: the file is gone (the process ended) or unreadable.
    """
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise UnavailableError(
            "the byte counters cannot be read", where=str(path), why=error.strerror
        ) from error
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = [int(word) for word in rest.split()]
        found[name.strip()] = InterfaceCounters(
            tx_bytes=fields[8], rx_bytes=fields[0], tx_packets=fields[9], rx_packets=fields[1]
        )
    return found
