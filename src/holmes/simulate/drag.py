"""Drag: computation goes slower while its rank moves bytes."""

from __future__ import annotations

from holmes.simulate.tables import Tables

IDLE = -1.0


class Drag:
    """What each rank's computation owes to the traffic that ran beside it.

    Every byte that a rank exchanges costs its computation ``tables.drag`` seconds, in the
    share of the transfer's time during which it computed. The computation that runs when
    the transfer ends goes on for that long. One that ended before was slower too, but the
    rank then waited for the transfer anyhow, so nothing is owed.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        ranks = set(tables.rank)
        self._since = dict.fromkeys(ranks, IDLE)
        self._computed = dict.fromkeys(ranks, 0.0)
        self._debt = dict.fromkeys(ranks, 0.0)
        self._begun: dict[int, tuple[float, list[float]]] = {}

    def compute(self, number: int, now: float) -> None:
        """A computation begins."""
        self._since[self._tables.rank[number]] = now

    def owed(self, number: int) -> float:
        """Seconds by which a computation that should end now goes on."""
        rank = self._tables.rank[number]
        debt, self._debt[rank] = self._debt[rank], 0.0
        return debt

    def computed(self, number: int, now: float) -> None:
        """A computation ends."""
        rank = self._tables.rank[number]
        self._computed[rank] += now - self._since[rank]
        self._since[rank] = IDLE

    def begin(self, meeting: int, now: float) -> None:
        """The flows of a meeting start."""
        members = self._tables.members[meeting]
        self._begun[meeting] = (now, [self._busy(member, now) for member in members])

    def end(self, meeting: int, now: float) -> None:
        """The last flow of a meeting has ended."""
        start, busy = self._begun.pop(meeting)
        members, kinds = self._tables.members[meeting], self._tables.kinds
        bytes_ = sum(kinds.bytes[kind] for kind in self._tables.flows[meeting]) / len(members)
        for member, before in zip(members, busy, strict=True):
            rank = self._tables.rank[member]
            if self._since[rank] != IDLE:
                share = (self._busy(member, now) - before) / (now - start)
                self._debt[rank] += share * bytes_ * self._tables.drag

    def _busy(self, number: int, now: float) -> float:
        """Seconds that the rank of an instruction has computed up to now."""
        rank = self._tables.rank[number]
        since = self._since[rank]
        return self._computed[rank] + (now - since if since != IDLE else 0.0)
