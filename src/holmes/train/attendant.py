"""Attendant: what looks on while ranks train, and passes on the order to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from types import FrameType
from typing import Any, Self

from holmes.diagnose.watcher import Hang, Watcher
from holmes.launch.watch import Stall


class StopOrder:
    """SIGTERM to this process, or :meth:`give`: ranks finish their step, commit and end.

    A context manager; a second signal does what it did before. Outside the main thread only
    :meth:`give` counts.
    """

    def __init__(self) -> None:
        self.given = False
        self.terminated = False
        self._before: Any = None

    def give(self) -> None:
        """Ask the ranks to stop after their step."""
        self.given = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.terminated and callable(self._before):
            self._before(number, frame)
        self.given = self.terminated = True


class Attendant:
    """The guard of one generation of ranks: a watcher, and the order to stop.

    Args:
        grace_seconds: how long ranks may take to stop.
        on_watch: called a few times a second while the ranks run.
    """

    interval = Watcher.interval

    def __init__(
        self,
        watcher: Watcher,
        stop: StopOrder,
        grace_seconds: float,
        on_watch: Callable[[], None] = lambda: None,
    ) -> None:
        self.watcher = watcher
        self._stop = stop
        self._grace = grace_seconds
        self._on_watch = on_watch
        self._sent: float | None = None
        self.concluded = 0

    def begin(self, pids: Mapping[int, int]) -> None:
        self.watcher.begin(pids)

    def look(self, now: float) -> Stall | None:
        self._on_watch()
        if self._sent is not None and now - self._sent > self._grace:
            return Hang(
                "the ranks did not stop in time",
                where=f"{self._grace:g} s after they were asked to",
                why="a step or a checkpoint takes longer",
                next_step="set train.grace_seconds to more than a step and a checkpoint take",
            )
        return self.watcher.look(now)

    def order(self, now: float) -> int | None:
        if self._stop.given and self._sent is None:
            self._sent = now
            return signal.SIGTERM
        return None

    def excused(self) -> Collection[int]:
        return self.watcher.excused()

    def freeze(self) -> None:
        self.watcher.freeze()

    def conclude(self, kind: str, rank: int | None, text: str) -> None:
        self.watcher.conclude(kind, rank, text)
        self.concluded = time.monotonic_ns()
