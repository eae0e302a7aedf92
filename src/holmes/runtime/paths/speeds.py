"""How fast every path is, from what was acknowledged on it, and when one stands out."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence

WINDOW = 5
"""Looks that one speed is taken over."""
SLOW = 0.6
"""A path is slow below this share of its own best, where others are not as well."""
STALL_LOOKS = 10
"""A path is dead after so many looks without progress, where another got on since ..."""
ALONE_LOOKS = 30
"""... or after so many where none did: that may be the receiver."""
LATER = 2
"""Looks by which the others must have got on for longer."""


class Speeds:
    """Fed at every look with totals by path; says which path failed or slowed, and why."""

    def __init__(self, paths: Sequence[str], given: Mapping[str, float] | None = None) -> None:
        self._paths = tuple(paths)
        self._given = dict(given or {})
        self._best: dict[str, float] = {}
        self._recent: dict[str, float] = {}
        self._dead: set[str] = set()
        self.restart()

    def restart(self) -> None:
        """Forget the totals (flows moved), not what is known of the paths."""
        self._looks: deque[tuple[float, Mapping[str, int], Collection[str]]] = deque(
            maxlen=WINDOW + 1
        )
        self._count = 0
        self._moved = dict.fromkeys(self._paths, 0)

    def dead(self, path: str) -> None:
        """Nothing gets through on it."""
        self._dead.add(path)

    def rate(self, path: str) -> float:
        """Bytes per second: measured last, else as given, else like the fastest; 0 if dead."""
        if path in self._dead:
            return 0.0
        known = self._recent.get(path) or self._given.get(path)
        return known or max(self._recent.values(), default=0.0) or 1.0

    def note(
        self, now: float, totals: Mapping[str, int], busy: Collection[str]
    ) -> tuple[str, str] | None:
        """One look: bytes acknowledged by path, and the paths that have something to send.

        Returns (path, reason) where one is dead or slow; a slow one is measured against its
        present speed from then on.
        """
        self._count += 1
        for path in self._paths:
            if self._looks and totals[path] > self._looks[-1][1][path]:
                self._moved[path] = self._count
        self._looks.append((now, dict(totals), frozenset(busy)))
        return self._stalled(busy) or self._slowed()

    def _stalled(self, busy: Collection[str]) -> tuple[str, str] | None:
        for path in busy:
            later = max(self._moved.values()) - self._moved[path] >= LATER
            patience = STALL_LOOKS if later else ALONE_LOOKS
            if self._count - self._moved[path] >= patience and path not in self._dead:
                self.dead(path)
                return path, "nothing was acknowledged any more"
        return None

    def _slowed(self) -> tuple[str, str] | None:
        if len(self._looks) <= WINDOW:
            return None
        first, last = self._looks[0], self._looks[-1]
        shares = {}
        for path in self._paths:
            if self._moved[path] == self._count and all(path in look[2] for look in self._looks):
                self._recent[path] = (last[1][path] - first[1][path]) / (last[0] - first[0])
                self._best[path] = max(self._best.get(path, 0.0), self._recent[path])
                shares[path] = self._recent[path] / self._best[path]
        for path, share in shares.items():
            others = [other for name, other in shares.items() if name != path]
            if share < SLOW * max(others, default=1.0):
                self._best[path] = self._recent[path]
                return path, f"it ran at {share:.0%} of its best speed"
        return None
