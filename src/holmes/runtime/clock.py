"""A clock whose readings compare between ranks, also when they sit on different machines."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ROUNDS = 5

Clock = Callable[[], int]
"""Integer nanoseconds; the zero is the same on every rank."""


def boot_id() -> str:
    """Identifies the running kernel; ranks that share it share one monotonic clock."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def aligned(offset: int) -> Clock:
    """The monotonic clock of this machine, shifted by ``offset`` nanoseconds."""
    if offset == 0:
        return time.monotonic_ns
    return lambda: time.monotonic_ns() + offset


def measure_offset(
    barrier: Callable[[], None], first_rank_times: Callable[[list[int]], list[int]]
) -> int:
    """Nanoseconds to add to this machine's clock to read rank 0's.

    Readings are taken right after a barrier; the median over some rounds drops the
    rounds in which a rank was late. Good to about the latency of the network.

    Args:
        barrier: returns when every rank has called it.
        first_rank_times: given the own readings, returns those of rank 0.
    """
    mine: list[int] = []
    for _ in range(ROUNDS):
        barrier()
        mine.append(time.monotonic_ns())
    theirs = first_rank_times(mine)
    return round(statistics.median(t - m for t, m in zip(theirs, mine, strict=True)))
