"""Meter: when each peer's part of a direct exchange arrived.

How long a collective takes is the same on all its members, whoever is slow; who waited
for whom is not. Waits go through the peers in an order that rotates, and an arrival is
exact where the wait blocked (or came first): what arrived while another was waited for
is known only to have come before.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

BLOCKED_NS = 50_000
MOST_KEPT = 4096


class Arrival(NamedTuple):
    """``posted`` and ``at`` are nanoseconds of this machine's monotonic clock."""

    peer: int
    posted: int
    at: int
    bytes: int
    exact: bool


@dataclass
class Meter:
    """The arrivals of one communicator, the newest :data:`MOST_KEPT` of them."""

    kept: deque[Arrival] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))
    turn: int = 0

    def order(self, peers: list[int]) -> list[int]:
        """The peers in the order in which to wait this time."""
        self.turn += 1
        first = self.turn % len(peers) if peers else 0
        return peers[first:] + peers[:first]

    def note(self, peer: int, posted: int, waited_from: int, size: int, *, first: bool) -> None:
        """A part of ``size`` bytes is there now."""
        now = time.monotonic_ns()
        exact = first or now - waited_from > BLOCKED_NS
        self.kept.append(Arrival(peer, posted, now, size, exact))

    def drain(self) -> list[Arrival]:
        """Everything since the last call."""
        found = list(self.kept)
        self.kept.clear()
        return found
