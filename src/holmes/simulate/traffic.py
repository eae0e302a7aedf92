"""Flows on the wire: who is sending now, how fast, and when the next one ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from holmes.cost.network import Flow
from holmes.simulate.meetings import Meeting
from holmes.simulate.sharing import max_min_rates


class ActiveFlow:
    """A flow that is running. ``version`` rises whenever its rate changes."""

    __slots__ = ("flow", "owner", "rate", "remaining", "updated", "version")

    def __init__(self, flow: Flow, owner: Meeting, now: float) -> None:
        self.flow = flow
        self.owner = owner
        self.remaining = flow.bytes
        self.rate = 0.0
        self.updated = now
        self.version = 0

    def settle(self, now: float) -> None:
        """Account for what was sent since the last change of rate."""
        self.remaining = max(0.0, self.remaining - self.rate * (now - self.updated))
        self.updated = now

    def end(self) -> float:
        """When it ends at the present rate."""
        return self.updated + self.remaining / self.rate if self.rate else math.inf


class Wire:
    """All active flows. Only the flows that a change can reach are computed again."""

    def __init__(self, capacity: Mapping[str, float]) -> None:
        self.capacity = capacity
        self.users: dict[str, dict[ActiveFlow, None]] = {}
        self.dirty: dict[str, None] = {}

    def add(self, flow: Flow, owner: Meeting, now: float) -> ActiveFlow:
        """Start a flow; its rate is set by the next :meth:`share`."""
        active = ActiveFlow(flow, owner, now)
        for name in flow.resources:
            self.users.setdefault(name, {})[active] = None
            self.dirty[name] = None
        return active

    def remove(self, active: ActiveFlow) -> None:
        """Take a finished flow off the wire."""
        for name in active.flow.resources:
            del self.users[name][active]
            self.dirty[name] = None

    def share(self, now: float) -> Iterable[ActiveFlow]:
        """Set the rates after changes; yields the flows whose rate changed."""
        reached = self._reached()
        self.dirty.clear()
        if not reached:
            return []
        flows = [active.flow for active in reached]
        if len(flows) == 1:
            only = flows[0]
            rates = [min([only.cap, *(self.capacity[name] for name in only.resources)])]
        else:
            rates = max_min_rates(flows, self.capacity)
        changed = []
        for active, rate in zip(reached, rates, strict=True):
            if rate != active.rate:
                active.settle(now)
                active.rate = rate
                active.version += 1
                changed.append(active)
        return changed

    def _reached(self) -> list[ActiveFlow]:
        """Flows connected to a changed resource through shared resources, in order of start."""
        names = list(self.dirty)
        seen_names = set(names)
        reached: dict[ActiveFlow, None] = {}
        while names:
            for active in self.users.get(names.pop(), ()):
                if active not in reached:
                    reached[active] = None
                    for name in active.flow.resources:
                        if name not in seen_names:
                            seen_names.add(name)
                            names.append(name)
        return list(reached)
