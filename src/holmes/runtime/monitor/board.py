"""Board: what a rank is doing right now, in a small mapped file that its agent reads.

No message is sent and no lock is taken: the rank writes 32 bytes when an instruction
begins and when it is complete, and a reader looks when it likes, also after the rank
was killed or frozen. One slot per lane, written by the thread of that lane alone;
``count`` is odd while an instruction runs.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from holmes.errors import DataError, WriteError

HEAD = struct.Struct("<qqqq")
SLOT = struct.Struct("<qqqq")
TABLE = 4096
"""Bytes in front of the slots: the length of a JSON text, and the text."""
MOST_TEXT = 1 << 20


class Phase(IntEnum):
    """Where a rank is with its step, in order."""

    SAVING = -2
    """Writing or reading a checkpoint, or waiting for that."""
    EVALUATING = -1
    OUTSIDE = 0
    """Writing records, asking how things went."""
    BEFORE = 1
    """In the barrier before the step."""
    INSIDE = 2
    AFTER = 3
    """In the barrier after the step."""


LONG = frozenset({Phase.SAVING, Phase.EVALUATING})
"""Phases that may take longer than any instruction: nobody expects such a rank to move."""


@dataclass(frozen=True)
class Slot:
    """One lane: operations begun and complete, the latest instruction, since when (ns), and
    the step it belongs to."""

    lane: str
    count: int
    instruction: int
    since: int
    step: int

    @property
    def busy(self) -> bool:
        return self.count % 2 == 1


@dataclass(frozen=True)
class Reading:
    """A board as it stood. ``operation`` is the p99 of an instruction in ns, 0 if unknown;
    ``since`` is when the phase began."""

    rank: int
    pid: int
    step: int
    phase: Phase
    operation: int
    slots: tuple[Slot, ...]
    since: int = 0

    @property
    def seen(self) -> int:
        """When the rank last got anywhere, ns of the monotonic clock."""
        return max(self.since, *(slot.since for slot in self.slots), 0)

    @property
    def inside(self) -> bool:
        """Whether a step's instructions are under way."""
        return self.phase is Phase.INSIDE

    @property
    def progress(self) -> tuple[int, ...]:
        """Changes whenever the rank gets anywhere."""
        return (self.step, int(self.phase), *(slot.count for slot in self.slots))


class Board:
    """The writing side.

    Raises:
        WriteError: when the file cannot be made.
    """

    def __init__(self, path: Path, rank: int, lanes: Sequence[str]) -> None:
        text = json.dumps({"rank": rank, "pid": os.getpid(), "lanes": list(lanes)}).encode()
        self._start = _slots_start(len(text))
        self._offsets = {
            lane: self._start + HEAD.size + i * SLOT.size for i, lane in enumerate(lanes)
        }
        self._counts = dict.fromkeys(lanes, 0)
        self._operation = 0
        self._step = -1
        size = self._start + HEAD.size + len(lanes) * SLOT.size
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            with fresh.open("wb+") as file:
                file.truncate(size)
                self._map = mmap.mmap(file.fileno(), size)
            struct.pack_into("<q", self._map, 0, len(text))
            self._map[8 : 8 + len(text)] = text
            fresh.replace(path)  # a reader never sees half a table
        except OSError as error:
            raise WriteError(f"cannot write: {error.strerror}", where=str(path)) from None

    def step(self, number: int, phase: Phase) -> None:
        """The rank comes to another phase of a step."""
        self._step = number
        HEAD.pack_into(
            self._map, self._start, number, int(phase), self._operation, time.monotonic_ns()
        )

    def set_operation(self, nanoseconds: int) -> None:
        """How long instructions take; shown from the next step on."""
        self._operation = nanoseconds

    def turn(self, lane: str, instruction: int) -> None:
        """An instruction begins on an idle lane, or the one under way is complete."""
        count = self._counts[lane] = self._counts[lane] + 1
        SLOT.pack_into(
            self._map, self._offsets[lane], count, instruction, time.monotonic_ns(), self._step
        )


def read_board(path: Path) -> Reading:
    """Read a board; the rank may be writing at the same time.

    Raises:
        DataError: the file is missing or is no board.
    """
    try:
        data = path.read_bytes()
        (length,) = struct.unpack_from("<q", data, 0)
        if not 0 < length <= MOST_TEXT:
            raise ValueError("length of the table")
        table = json.loads(data[8 : 8 + length])
        start = _slots_start(length)
        step, phase, operation, since = HEAD.unpack_from(data, start)
        slots = []
        for i, lane in enumerate(table["lanes"]):
            place = start + HEAD.size + i * SLOT.size
            slots.append(Slot(str(lane), *SLOT.unpack_from(data, place)))
        rank, pid = int(table["rank"]), int(table["pid"])
        return Reading(rank, pid, step, Phase(phase), operation, tuple(slots), since)
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise DataError("cannot read a progress board", where=str(path), why=str(error)) from None


def _slots_start(length: int) -> int:
    """Behind the table, at a multiple of its page."""
    return -(-(8 + length) // TABLE) * TABLE
