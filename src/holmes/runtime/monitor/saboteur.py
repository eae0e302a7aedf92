"""Saboteur: carries out the faults that a rank does to itself, at an exact instruction."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from holmes.lab.faults import Fault, Phase
from holmes.schedule.instruction import COMPUTE_OPS, Instruction, Op

Poison = Callable[[Fault], bool]
"""Spoils values as a fault says; false where there are none yet."""
POISONS = frozenset({"nan", "flip", "corrupt"})
"""Kinds that spoil values, once what computes them is complete."""
DEFAULT_PHASES: dict[str, Phase] = {"nan": "backward", "flip": "backward", "corrupt": "step"}
SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}


class Saboteur:
    """An observer that breaks its own rank.

    Args:
        faults: those of this rank.
        poison: spoils values of this rank.
        marks: per fault, the file that gets the times (monotonic ns) at which it happened.
    """

    def __init__(self, faults: Sequence[Fault], poison: Poison, marks: Sequence[Path]) -> None:
        pairs = zip(faults, marks, strict=True)
        self._waiting = [(fault, mark) for fault, mark in pairs if happened(mark) < fault.times]
        self._poison = poison
        self._share = 1.0
        self._began = 0.0
        self.step = -1

    def begin(self, ins: Instruction) -> None:
        for fault, mark in list(self._waiting):
            if fault.kind not in POISONS and self._due(fault, ins):
                self._carry_out(fault, mark)
        if ins.op in COMPUTE_OPS:
            self._began = time.perf_counter()

    def end(self, ins: Instruction) -> None:
        for fault, mark in list(self._waiting):
            if fault.kind in POISONS and self._due(fault, ins) and self._poison(fault):
                self._note(fault, mark)
        if ins.op in COMPUTE_OPS and self._share < 1.0:
            time.sleep((time.perf_counter() - self._began) * (1.0 / self._share - 1.0))

    def _due(self, fault: Fault, ins: Instruction) -> bool:
        wanted = fault.phase or DEFAULT_PHASES.get(fault.kind)
        return self.step >= fault.step and wanted in (None, phase_of(ins))

    def _note(self, fault: Fault, mark: Path) -> None:
        self._waiting.remove((fault, mark))
        with mark.open("a") as file:
            file.write(f"{time.monotonic_ns()}\n")

    def _carry_out(self, fault: Fault, mark: Path) -> None:
        self._note(fault, mark)
        if fault.kind == "slow":
            self._share = fault.share
        else:
            os.kill(os.getpid(), SIGNALS[fault.kind])


def happened(mark: Path) -> int:
    """How often a fault has happened, in earlier generations."""
    return len(mark.read_text().splitlines()) if mark.exists() else 0


def phase_of(ins: Instruction) -> Phase:
    """The phase of a step that an instruction belongs to."""
    if ins.op is Op.FORWARD:
        return "forward"
    if ins.op is Op.STEP:
        return "step"
    return "backward" if ins.op in COMPUTE_OPS else "communicate"
