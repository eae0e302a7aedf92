"""Recovery: how long each part of it took, and when to stop trying."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holmes.diagnose.verdict import Verdict
from holmes.train.summary import write_json

RECORD = "recovery.json"
PARTS = (
    "detect",
    "evidence",
    "stop",
    "replan",
    "choose",
    "spawn",
    "join",
    "build",
    "load",
    "first_step",
)
"""From the last sign of life of who failed to its notice; evidence taken; ranks ended; where
hosts are gone or back: those found and planned for; newest
good checkpoint found; ranks started; groups open; model built; state loaded; first new step."""
PHASE_ENDS = {
    "opening groups": "spawn",
    "building the model": "join",
    "loading the state": "build",
    "training": "load",
}
"""A rank's report -> the part that is over when the last rank makes it."""


@dataclass
class Timeline:
    """The moments of one recovery, monotonic ns; parts that are over, in order."""

    last: int
    seconds: dict[str, float] = field(default_factory=dict)
    _latest: dict[str, int] = field(default_factory=dict)

    def end(self, part: str, now: int | None = None) -> None:
        """A part is over; the next one begins."""
        now = time.monotonic_ns() if now is None else now
        self.seconds[part] = max(0, now - self.last) / 1e9
        self.last = max(now, self.last)

    def hear(self, report: Mapping[str, Any]) -> bool:
        """A report of a rank; whether it is the first new step, which ends the recovery."""
        part = PHASE_ENDS.get(str(report.get("phase")))
        if part is not None:
            self._latest[part] = time.monotonic_ns()
            return False
        if "seconds" not in report or "first_step" in self.seconds:
            return False
        for part in PHASE_ENDS.values():
            if part in self._latest:
                self.end(part, self._latest[part])
        self.end("first_step")
        return True


@dataclass
class Recovery:
    """One restart.

    Attributes:
        generation: that took over.
        cause: the verdict on the one before, and what the error said.
        reached: steps that were complete when it failed.
        resumed_from: the step of the checkpoint; the steps between are done again.
        hosts: that the new generation runs on.
        cold: the process that starts ranks had to be started anew.
    """

    generation: int
    cause: Verdict
    what: str
    reached: int
    resumed_from: int
    hosts: int
    cold: bool
    timeline: Timeline

    def to_dict(self) -> dict[str, Any]:
        seconds = {part: round(s, 4) for part, s in self.timeline.seconds.items()}
        return {
            "generation": self.generation,
            **self.cause.to_dict(),
            "what": self.what,
            "step_reached": self.reached,
            "resumed_from": self.resumed_from,
            "steps_lost": self.reached - self.resumed_from,
            "hosts": self.hosts,
            "cold": self.cold,
            "seconds": seconds,
            "total_seconds": round(sum(seconds.values()), 4),
            "complete": "first_step" in seconds,
        }

    def text(self) -> str:
        """One line for people."""
        parts = ", ".join(f"{part} {s:.2f}" for part, s in self.timeline.seconds.items())
        total = sum(self.timeline.seconds.values())
        return (
            f"recovered from {self.cause.text()} in {total:.1f} s ({parts}); "
            f"{self.reached - self.resumed_from} steps done again"
        )


@dataclass
class Restarts:
    """Counts restarts that brought the run no further.

    Args:
        limit: how many of them are allowed in a row.
    """

    limit: int
    furthest: int = -1
    in_vain: int = 0

    def allow(self, reached: int) -> bool:
        """Whether to start again after a failure with so many steps complete."""
        if reached > self.furthest:
            self.furthest, self.in_vain = reached, 0
        self.in_vain += 1
        return self.in_vain <= self.limit


def write_recoveries(run: Path, recoveries: list[Recovery], gave_up: str | None) -> None:
    """Write ``recovery.json`` into the run folder.

    Raises:
        WriteError: it cannot be written.
    """
    listed = [recovery.to_dict() for recovery in recoveries]
    write_json(run / RECORD, {"recoveries": listed, "gave_up": gave_up})
