"""What is known of one task on several ranks, and which failure is the cause.

Pure bookkeeping with the time passed in, so every order of events can be tested.
A death outranks an error, whichever is heard first: the ranks that lose a peer
complain about the connection, often before the caller hears of the death.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from holmes.launch.wire import Message


@dataclass(frozen=True)
class Deadlines:
    """Seconds: for the whole task, between two signs of life, and after a first failure."""

    task: float
    silence: float | None = None
    grace: float = 2.0


class Stall(Protocol):
    """The ranks of a task stopped getting anywhere: what, where and why, as for an error."""

    @property
    def what(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def next_step(self) -> str: ...


class Guard(Protocol):
    """Follows the progress of a task beside its messages, and keeps the evidence of a failure.

    Attributes:
        interval: seconds between two looks.
    """

    interval: float

    def begin(self, pids: Mapping[int, int]) -> None:
        """A task is about to start on these processes, by launch rank."""

    def look(self, now: float) -> Stall | None:
        """What is wrong, where nothing has moved for too long."""

    def order(self, now: float) -> int | None:
        """A signal that all ranks of the task are to get now, or None."""

    def excused(self) -> Collection[int]:
        """Launch ranks that are busy with something that may take long without a word."""

    def freeze(self) -> None:
        """Take down how things stand, at the first sign of a failure; later calls do nothing."""

    def conclude(self, kind: str, rank: int | None, text: str) -> None:
        """The failure turned out to be this (``death``, ``error``, ``silence``, ``stall``) of a
        launch rank; all processes still run, or are as they died."""


@dataclass
class Watch:
    """One task. Ranks leave ``pending`` when they answer, fail or die."""

    deadlines: Deadlines
    began: float
    pending: set[int]
    results: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    last: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    errors: list[tuple[int, Message]] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    _heard: dict[int, float] = field(default_factory=dict)
    _failed_at: float | None = None

    def hear(self, rank: int, message: Message, now: float) -> None:
        """A message of one rank: ``progress``, ``result`` or ``error``."""
        self._heard[rank] = now
        if message["kind"] == "progress":
            self.last[rank] = message["value"]
            return
        self.pending.discard(rank)
        if message["kind"] == "result":
            self.results[rank] = message["value"]
        else:
            self.errors.append((rank, message))
            self._fail(now)

    def excuse(self, rank: int, now: float) -> None:
        """A rank is known to be busy, so its silence starts anew."""
        self._heard[rank] = now

    def lose(self, rank: int, now: float) -> None:
        """The process of a rank is gone."""
        self.pending.discard(rank)
        self.dead.append(rank)
        self._fail(now)

    def over(self, now: float) -> bool:
        """Whether nothing more is worth waiting for."""
        if not self.pending or self.dead:
            return True
        return now >= self.next_check(now)

    def next_check(self, now: float) -> float:
        """The time at which the task is over if nothing is heard until then."""
        ends = [self.began + self.deadlines.task]
        if self._failed_at is not None:
            ends.append(self._failed_at + self.deadlines.grace)
        elif self.deadlines.silence is not None:
            ends += [
                self._heard.get(rank, self.began) + self.deadlines.silence for rank in self.pending
            ]
        return min(ends)

    def silent(self, now: float) -> tuple[float, list[int]]:
        """After ``over`` with ranks pending: the deadline in seconds, and who missed it."""
        if now >= self.began + self.deadlines.task or self.deadlines.silence is None:
            return self.deadlines.task, sorted(self.pending)
        limit = self.deadlines.silence
        late = [r for r in self.pending if now >= self._heard.get(r, self.began) + limit]
        return limit, sorted(late or self.pending)

    def cause(self) -> tuple[int, Message] | None:
        """The first error that is not just the loss of a peer, else the first error."""
        return first_cause(self.errors)

    def _fail(self, now: float) -> None:
        if self._failed_at is None:
            self._failed_at = now


def first_cause(errors: Iterable[tuple[int, Message]]) -> tuple[int, Message] | None:
    """Of errors in order of arrival, the one that others followed from."""
    listed = list(errors)
    own = [item for item in listed if not item[1].get("peer_lost")]
    return next(iter(own or listed), None)
