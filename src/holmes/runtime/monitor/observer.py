"""Observers of the interpreter: who is told when an instruction begins and is complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from holmes.runtime.monitor.board import Board
from holmes.schedule.instruction import Instruction


class Observer(Protocol):
    """Called by the thread that runs the instruction, inside its span."""

    def begin(self, ins: Instruction) -> None: ...

    def end(self, ins: Instruction) -> None: ...


class Unobserved:
    """Nobody is told."""

    def begin(self, ins: Instruction) -> None:
        return None

    def end(self, ins: Instruction) -> None:
        return None


class Published:
    """Every instruction is shown on the rank's board."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def begin(self, ins: Instruction) -> None:
        self._board.turn(ins.lane, ins.id)

    def end(self, ins: Instruction) -> None:
        self._board.turn(ins.lane, ins.id)


class Several:
    """Observers one inside the other: the first begins first and ends last."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def begin(self, ins: Instruction) -> None:
        for observer in self._observers:
            observer.begin(ins)

    def end(self, ins: Instruction) -> None:
        for observer in reversed(self._observers):
            observer.end(ins)
