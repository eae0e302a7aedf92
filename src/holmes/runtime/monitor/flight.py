"""Flight record: the last steps of a rank, instruction by instruction, in a file of its own.

Written by every rank beside the training network, one line a step, so that it is there
when the network is what failed. Two files take turns, so it never grows beyond its limit.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holmes.errors import DataError, WriteError
from holmes.events.jsonl import read_objects
from holmes.events.span import Span
from holmes.runtime.monitor.meter import Arrival
from holmes.runtime.monitor.wires import Wire

MOST_BYTES = 1 << 20
BASELINE_STEPS = 20


@dataclass(frozen=True)
class FlightStep:
    """One step of one rank. ``spans`` by instruction: (start, stop), ns of the shared clock;
    ``arrivals`` by lane, in order, on the same clock; ``wires``: what its connections sent."""

    rank: int
    step: int
    applied: bool
    spans: Mapping[int, tuple[int, int]]
    arrivals: Mapping[str, tuple[Arrival, ...]]
    wires: tuple[Wire, ...] = ()


class FlightRecorder:
    """The writing side; one per rank."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / f"rank-{rank}.jsonl"
        self._older = folder / f"rank-{rank}.older.jsonl"
        self._slowest: deque[int] = deque(maxlen=BASELINE_STEPS)
        try:
            for path in (self._path, self._older):
                path.unlink(missing_ok=True)
            self._file = self._path.open("a")
        except OSError as error:
            raise WriteError(f"cannot write: {error.strerror}", where=str(self._path)) from None

    def write(
        self,
        step: int,
        spans: Sequence[Span],
        arrivals: Mapping[str, Sequence[Arrival]],
        *,
        applied: bool,
        wires: Sequence[Wire] = (),
    ) -> int:
        """Append a step; the p99 of an instruction in the slowest of the last steps, in ns.

        Raises:
            WriteError: the file cannot be written.
        """
        line = {
            "step": step,
            "applied": applied,
            "spans": [(span.id, span.start, span.stop) for span in spans],
            "arrivals": {lane: found for lane, found in arrivals.items() if found},
            "wires": wires,
        }
        try:
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            self._file.flush()
            if self._file.tell() > MOST_BYTES:
                self._file.close()
                self._path.replace(self._older)
                self._file = self._path.open("a")
        except OSError as error:
            raise WriteError(f"cannot write: {error.strerror}", where=str(self._path)) from None
        durations = sorted(span.stop - span.start for span in spans)
        if durations:
            self._slowest.append(durations[-1 - len(durations) // 100])
        return max(self._slowest, default=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_flight(folder: Path, rank: int) -> list[FlightStep]:
    """The steps of a rank that are still kept, in order.

    Raises:
        DataError: naming file and line.
    """
    paths = (folder / f"rank-{rank}.older.jsonl", folder / f"rank-{rank}.jsonl")
    found = (item for path in paths if path.exists() for item in read_objects(path))
    return [_step(rank, item, where) for where, item in found]


def _step(rank: int, item: Mapping[str, Any], where: str) -> FlightStep:
    try:
        spans = {int(id_): (int(start), int(stop)) for id_, start, stop in item["spans"]}
        arrivals = {
            str(lane): tuple(
                Arrival(int(peer), int(posted), int(at), int(size), bool(exact))
                for peer, posted, at, size, exact in parts
            )
            for lane, parts in item["arrivals"].items()
        }
        wires = tuple(
            Wire(str(card), str(here), str(there), int(sent), int(again))
            for card, here, there, sent, again in item.get("wires", ())
        )
        return FlightStep(rank, int(item["step"]), bool(item["applied"]), spans, arrivals, wires)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError("this line is no step of a flight record", where=where) from error
