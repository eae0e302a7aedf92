"""Monitor: one rank's board and flight record, and the faults it is to suffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from holmes.lab.faults import KINDS, PHASES, Fault
from holmes.runtime.groups import Groups
from holmes.runtime.monitor.board import Board, Phase
from holmes.runtime.monitor.flight import FlightRecorder
from holmes.runtime.monitor.observer import Observer, Published, Several
from holmes.runtime.monitor.saboteur import Poison, Saboteur
from holmes.runtime.monitor.wires import Connections
from holmes.runtime.pipeline.interpreter import Interpreter, StepResult

FOLDER = "monitor"
T = TypeVar("T")


class Monitor:
    """Watches the steps of one rank.

    Args:
        run: the run folder; the files go to ``monitor/`` in it.
        faults: those of this rank, with the files that tell when they happened.
        poison: spoils values of this rank, as a fault says.
    """

    def __init__(
        self,
        run: Path,
        groups: Groups,
        interpreter: Interpreter,
        faults: Sequence[tuple[Fault, Path]],
        poison: Poison,
    ) -> None:
        self._groups = groups
        folder = run / FOLDER
        self._board = Board(folder / f"rank-{groups.rank}.board", groups.rank, interpreter.lanes)
        self._flight = FlightRecorder(folder, groups.rank)
        self._connections = Connections()
        mine = [(fault, mark) for fault, mark in faults if _own(fault, groups.rank)]
        self._saboteur = Saboteur([f for f, _ in mine], poison, [mark for _, mark in mine])
        published = Published(self._board)
        observers: list[Observer] = [published, self._saboteur] if mine else [published]
        interpreter.observer = Several(observers) if mine else published

    def measure(self, number: int, measured: Callable[[], T]) -> T:
        """Run a step with the barriers around it, in which ranks can hang as well."""
        self._board.step(number, Phase.BEFORE)
        result = measured()
        self._board.step(number, Phase.OUTSIDE)
        return result

    def outside(self, number: int, phase: Phase) -> None:
        """The rank does something else after a step."""
        self._board.step(number, phase)

    def watch(self, number: int, step: Callable[[], StepResult]) -> StepResult:
        """Run a step under watch and record it. A step that fails leaves the board as it was."""
        for comm in self._groups.communicators.values():
            comm.meter.drain()
        self._saboteur.step = number
        self._board.step(number, Phase.INSIDE)
        result = step()
        self._board.step(number, Phase.AFTER)
        offset = self._groups.clock_offset
        arrivals = {
            f"comm:{name}": [
                part._replace(posted=part.posted + offset, at=part.at + offset)
                for part in comm.meter.drain()
            ]
            for name, comm in self._groups.communicators.items()
        }
        operation = self._flight.write(
            number,
            result.spans,
            arrivals,
            applied=result.applied,
            wires=self._connections.since(),
        )
        self._board.set_operation(operation)
        return result

    def close(self) -> None:
        """Close the record."""
        self._flight.close()


def _own(fault: Fault, rank: int) -> bool:
    """Whether this rank has to do it to itself."""
    inside = fault.phase is None or fault.phase in PHASES
    return fault.rank == rank and KINDS[fault.kind].by == "rank" and inside
