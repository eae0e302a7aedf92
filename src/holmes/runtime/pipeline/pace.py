"""Pace: real computation held to a share of one core, so that a host stands for a device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self


class Pace:
    """A context in which work takes at least its processor time divided by ``cores``.

    A kernel quota alone stops a thread for the rest of a period at some point of its own
    choosing; blocks of a few milliseconds then take once, then twice their time, and a
    message that arrives meanwhile waits. Pacing each piece of work makes its time
    repeatable, absorbs what other processes steal as long as the share leaves room, and
    gives the processor to communication during the pause, as an accelerator would.

    Args:
        cores: share of one core, at most 1; None means no pacing.

    Attributes:
        busy_seconds: processor time of all the work so far.
    """

    def __init__(self, cores: float | None) -> None:
        self.busy_seconds = 0.0
        self._cores = cores
        self._wall = self._busy = 0.0

    def __enter__(self) -> Self:
        self._begin()
        return self

    @contextmanager
    def outside(self) -> Iterator[None]:
        """In the middle of the work, something that is none: a collective inside a block.

        What was computed before it is paced first, so that all members meet at a pause.
        """
        self._end()
        try:
            yield
        finally:
            self._begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._end()

    def _begin(self) -> None:
        self._wall, self._busy = time.perf_counter(), time.thread_time()

    def _end(self) -> None:
        busy = time.thread_time() - self._busy
        self.busy_seconds += busy
        if self._cores is None:
            return
        left = busy / self._cores - (time.perf_counter() - self._wall)
        if left > 0.0:
            time.sleep(left)
