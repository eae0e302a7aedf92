"""Fault points: moments outside a step's instructions at which a rank can kill or stop itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

from holmes.lab.faults import OUTER_PHASES, Fault
from holmes.runtime.monitor.saboteur import SIGNALS, happened
from holmes.train.assignment import Assignment

AT_ONCE = frozenset({"start", "join", "load"})
"""Reached before any step, so the step of the fault does not matter."""


class FaultPoints:
    """The faults of one rank at such moments; usually none, and then a call does nothing."""

    def __init__(self, given: Assignment, rank: int) -> None:
        mine = [(f, m) for f, m in given.faults() if f.rank == rank and f.phase in OUTER_PHASES]
        self._waiting: list[tuple[Fault, Path]] = mine
        self.step = -1

    def reach(self, phase: str) -> None:
        """The rank comes to a moment; any thread may call it."""
        for fault, mark in self._waiting:
            due = phase in AT_ONCE or self.step >= fault.step
            if fault.phase == phase and due and happened(mark) < fault.times:
                with mark.open("a") as file:
                    file.write(f"{time.monotonic_ns()}\n")
                os.kill(os.getpid(), SIGNALS[fault.kind])
