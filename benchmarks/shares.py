"""Hits of so many trials, with an interval; and figures put together from parts."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

Z = 1.959964
"""Standard normal quantile of a two-sided interval of 95 %."""


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) where nothing was tried."""
    if trials == 0:
        return 0.0, 1.0
    share, room = hits / trials, Z * Z / trials
    middle = (share + room / 2) / (1 + room)
    half = Z * sqrt(share * (1 - share) / trials + room / trials / 4) / (1 + room)
    return max(0.0, middle - half), min(1.0, middle + half)


def share(outcomes: Iterable[bool]) -> dict[str, Any]:
    """Hits, trials and the interval."""
    listed = list(outcomes)
    low, high = wilson(sum(listed), len(listed))
    return {"hits": sum(listed), "trials": len(listed), "low": low, "high": high}


def text(value: dict[str, Any]) -> str:
    """As in a table: ``12 of 12 (76 to 100 %)``."""
    if not value["trials"]:
        return "-"
    return f"{value['hits']} of {value['trials']} ({value['low']:.0%} to {value['high']:.0%})"
