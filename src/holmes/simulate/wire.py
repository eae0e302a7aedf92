"""Flows on the wire: who is sending now, how fast, and when each ends.

Only the flows that a change can reach through shared resources get new rates;
a flow that meets no other runs at its own.
"""

from __future__ import annotations

import math
from heapq import heappush

from holmes.simulate.sharing import fair_rates
from holmes.simulate.tables import FlowKinds

ENDED = -1.0
ROUNDING = 1e-9


class Wire:
    """All active flows, each in a slot that is used again when it ends.

    ``heap`` takes ``(time, base + slot)`` when a flow is to end; an entry counts
    while ``end[slot]`` is that time. ``carried`` is bytes moved by resource,
    counted from rates and times alone.
    """

    def __init__(
        self,
        kinds: FlowKinds,
        capacity: list[float],
        heap: list[tuple[float, int]],
        base: int,
    ) -> None:
        self.kinds = kinds
        self.capacity = capacity
        self.heap = heap
        self.base = base
        self.users: list[dict[int, None]] = [{} for _ in capacity]
        self.carried = [0.0] * len(capacity)
        self.changed: dict[int, None] = {}
        self.free: list[int] = []
        self.kind: list[int] = []
        self.owner: list[int] = []
        self.left: list[float] = []
        self.rate: list[float] = []
        self.since: list[float] = []
        self.end: list[float] = []

    def add(self, kind: int, owner: int, now: float) -> None:
        """Start a flow; where it shares, its rate is set by the next :meth:`share`."""
        slot = self._slot()
        self.kind[slot] = kind
        self.owner[slot] = owner
        self.left[slot] = self.kinds.bytes[kind]
        self.since[slot] = now
        path = self.kinds.path[kind]
        shares = False
        for name in path:
            users = self.users[name]
            shares = shares or bool(users)
            users[slot] = None
        if shares:
            self.rate[slot] = 0.0
            self.end[slot] = math.inf
            for name in path:
                self.changed[name] = None
        else:
            rate = self.rate[slot] = self.kinds.alone[kind]
            end = self.end[slot] = now + self.left[slot] / rate
            heappush(self.heap, (end, self.base + slot))

    def finish(self, slot: int, now: float) -> int:
        """Take a flow off the wire; returns its owner."""
        kind = self.kind[slot]
        moved = self.kinds.bytes[kind] - self.left[slot]
        moved += self.rate[slot] * (now - self.since[slot])
        self.end[slot] = ENDED
        self.free.append(slot)
        for name in self.kinds.path[kind]:
            self.carried[name] += moved
            users = self.users[name]
            del users[slot]
            if users:
                self.changed[name] = None
        return self.owner[slot]

    def share(self, now: float) -> None:
        """Set the rates after changes."""
        slots = self._reached()
        self.changed.clear()
        if not slots:
            return
        kinds, kind = self.kinds, self.kind
        if len(slots) == 1:
            rates = [kinds.alone[kind[slots[0]]]]
        else:
            chosen = [kind[slot] for slot in slots]
            rates = fair_rates(
                [kinds.path[k] for k in chosen],
                [kinds.weight[k] for k in chosen],
                [kinds.cap[k] for k in chosen],
                self.capacity,
            )
        for slot, rate in zip(slots, rates, strict=True):
            old = self.rate[slot]
            if abs(rate - old) > ROUNDING * rate:
                self.left[slot] -= old * (now - self.since[slot])
                self.since[slot] = now
                self.rate[slot] = rate
                end = self.end[slot] = now + max(0.0, self.left[slot]) / rate
                heappush(self.heap, (end, self.base + slot))

    def _slot(self) -> int:
        if self.free:
            return self.free.pop()
        self.kind.append(0)
        self.owner.append(0)
        self.left.append(0.0)
        self.rate.append(0.0)
        self.since.append(0.0)
        self.end.append(ENDED)
        return len(self.kind) - 1

    def _reached(self) -> list[int]:
        """Flows connected to a changed resource through shared resources."""
        names = list(self.changed)
        seen = set(names)
        reached: dict[int, None] = {}
        path, kind = self.kinds.path, self.kind
        while names:
            for slot in self.users[names.pop()]:
                if slot not in reached:
                    reached[slot] = None
                    for name in path[kind[slot]]:
                        if name not in seen:
                            seen.add(name)
                            names.append(name)
        return list(reached)
