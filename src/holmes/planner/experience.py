"""How far prices lay above scores, by kind of candidate: what a score leaves out, its like share.

A score divides blocks where a draft holds whole ones. At the edge of memory a draft may lose the
warm-up that hides a slow cut, and then costs a quarter more than its score; so do all others that
differ only in names of clusters, or hold more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holmes.planner.field import Row

SAME_BYTES = 0.999
"""Of a device's memory: what holds this part of it or more holds as much."""


@dataclass
class Experience:
    """Prices of one search so far."""

    _ratios: dict[tuple[object, ...], list[tuple[float, float]]] = field(default_factory=dict)
    """(bytes, price over score) of what was priced, by kind."""

    def add(self, row: Row, seconds: float) -> None:
        """A candidate costs ``seconds``; infinite where it cannot be drafted."""
        self._ratios.setdefault(_kind(row), []).append((row.bytes_, seconds / row.seconds))

    def expected(self, row: Row) -> float:
        """Seconds of a candidate by the best of its kind that held no more; its score where
        none was priced."""
        known = self._ratios.get(_kind(row), ())
        ratios = [ratio for bytes_, ratio in known if row.bytes_ >= bytes_ * SAME_BYTES]
        return row.seconds * min(ratios, default=1.0)


def _kind(row: Row) -> tuple[object, ...]:
    """All but how states are sharded, replicas are split into data and context, and clusters
    follow each other."""
    layout, choice = row.shape.layout, row.choice
    return (
        layout.tp,
        layout.pp,
        row.shape.microbatches,
        choice.schedule,
        choice.virtual_stages,
        choice.recompute,
        choice.sequence,
    )
