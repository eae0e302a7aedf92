"""How far the clocks of machines are apart, by asking the first one through the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holmes.probe.reach import Exchange

ROUNDS = 5


@dataclass(frozen=True)
class ClockOffset:
    """Seconds by which a clock is ahead of the first machine's; ``error`` bounds it."""

    seconds: float
    error: float


def measure_clocks(exchange: Exchange, leaders: Sequence[int]) -> list[ClockOffset]:
    """Offset of each leader's clock, in their order; every rank calls it.

    Each asks in turn, several times; the shortest answer counts (Cristian's method): the
    first clock was read between question and answer, so half of that time bounds the error.
    """
    first = leaders[0]
    mine = ClockOffset(0.0, 0.0)
    for leader in leaders[1:]:
        for number in range(ROUNDS):
            key = f"clock/{leader}/{number}"
            if exchange.rank == leader:
                mine = _closer(mine, _ask(exchange, key), first=number == 0)
            elif exchange.rank == first:
                exchange.wait(f"{key}/asked")
                exchange.tell(f"{key}/told", time.time())
    gathered = exchange.all_gather("clocks", [mine.seconds, mine.error])
    return [ClockOffset(*gathered[leader]) for leader in leaders]


def _ask(exchange: Exchange, key: str) -> ClockOffset:
    asked = time.time()
    exchange.tell(f"{key}/asked", "")
    told: Any = exchange.wait(f"{key}/told")
    half = (time.time() - asked) / 2
    return ClockOffset(asked + half - float(told), half)


def _closer(known: ClockOffset, new: ClockOffset, *, first: bool) -> ClockOffset:
    return new if first or new.error < known.error else known
