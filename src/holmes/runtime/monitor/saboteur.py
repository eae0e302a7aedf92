"""Saboteur: carries out the faults that a rank does to itself, at an exact instruction."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from holmes.lab.faults import Fault, Phase
from holmes.schedule.instruction import COMPUTE_OPS, Instruction, Op

Poison = Callable[[], None]
SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}


class Saboteur:
    """An observer that breaks its own rank.

    Args:
        faults: those of this rank.
        poison: puts a NaN into a gradient.
        marks: per fault, the file that gets the times (monotonic ns) at which it happened.
    """

    def __init__(self, faults: Sequence[Fault], poison: Poison, marks: Sequence[Path]) -> None:
        pairs = zip(faults, marks, strict=True)
        self._waiting = [(fault, mark) for fault, mark in pairs if _happened(mark) < fault.times]
        self._poison = poison
        self._share = 1.0
        self._began = 0.0
        self.step = -1

    def begin(self, ins: Instruction) -> None:
        for fault, mark in list(self._waiting):
            if fault.kind != "nan" and self._due(fault, ins):
                self._carry_out(fault, mark)
        if ins.op in COMPUTE_OPS:
            self._began = time.perf_counter()

    def end(self, ins: Instruction) -> None:
        for fault, mark in list(self._waiting):
            if fault.kind == "nan" and self._due(fault, ins):
                self._carry_out(fault, mark)
        if ins.op in COMPUTE_OPS and self._share < 1.0:
            time.sleep((time.perf_counter() - self._began) * (1.0 / self._share - 1.0))

    def _due(self, fault: Fault, ins: Instruction) -> bool:
        wanted = fault.phase or ("backward" if fault.kind == "nan" else None)
        return self.step >= fault.step and wanted in (None, phase_of(ins))

    def _carry_out(self, fault: Fault, mark: Path) -> None:
        self._waiting.remove((fault, mark))
        with mark.open("a") as file:
            file.write(f"{time.monotonic_ns()}\n")
        if fault.kind == "slow":
            self._share = fault.share
        elif fault.kind == "nan":
            self._poison()
        else:
            os.kill(os.getpid(), SIGNALS[fault.kind])


def _happened(mark: Path) -> int:
    """How often a fault has happened, in earlier generations."""
    return len(mark.read_text().splitlines()) if mark.exists() else 0


def phase_of(ins: Instruction) -> Phase:
    """The phase of a step that an instruction belongs to."""
    if ins.op is Op.FORWARD:
        return "forward"
    if ins.op is Op.STEP:
        return "step"
    return "backward" if ins.op in COMPUTE_OPS else "communicate"
