"""Fault points: moments outside a step's instructions at which a rank can kill or stop itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

from holmes.lab.faults import FIRST_ONLY, OUTER_PHASES, Fault
from holmes.runtime.monitor.board import read_board
from holmes.runtime.monitor.monitor import FOLDER
from holmes.runtime.monitor.saboteur import SIGNALS, happened
from holmes.train.assignment import Assignment

AT_ONCE = frozenset({"start", "join", "load"})
"""Reached before any step, so the step of the fault does not matter."""


class FaultPoints:
    """The faults of one rank at such moments; usually none, and then a call does nothing.

    Rank 0 also strikes others: at the moments that only it comes to.
    """

    def __init__(self, given: Assignment, rank: int) -> None:
        self._boards = given.run_folder / FOLDER
        self._rank = rank
        self._waiting: list[tuple[Fault, Path]] = [
            (fault, mark)
            for fault, mark in given.faults()
            if fault.phase in OUTER_PHASES
            and rank == (0 if fault.phase in FIRST_ONLY else fault.rank)
        ]
        self.step = -1

    def reach(self, phase: str) -> None:
        """The rank comes to a moment; any thread may call it."""
        for fault, mark in self._waiting:
            due = phase in AT_ONCE or self.step >= fault.step
            if fault.phase == phase and due and happened(mark) < fault.times:
                self._strike(fault, mark)

    def _strike(self, fault: Fault, mark: Path) -> None:
        pid = os.getpid()
        if fault.rank != self._rank:
            pid = read_board(self._boards / f"rank-{fault.rank}.board").pid
        with mark.open("a") as file:
            file.write(f"{time.monotonic_ns()}\n")
        os.kill(pid, SIGNALS[fault.kind])
