"""StopRequest: a rank that gets SIGTERM finishes its step, commits and ends.

A Python handler waits until the main thread comes back from native code, which it does not
while a peer is gone. So a thread of its own hears of the signal, and ends the process where
the step is not finished in time.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Self

TERMINATED = 143
LOOK_SECONDS = 0.25
Abandon = Callable[[], str | None]
"""Why there is no point in waiting for the step to finish; None while there is."""


def _never() -> str | None:
    return None


class StopRequest:
    """Notes SIGTERM while a task runs on the main thread. A context manager.

    Args:
        grace_seconds: after that the process ends itself with exit code 143; None: whoever
            sent the signal sees to that.
        abandon: asked after a signal; a reason ends the process at once.
    """

    def __init__(self, grace_seconds: float | None = None, abandon: Abandon = _never) -> None:
        self._grace = grace_seconds
        self._abandon = abandon
        self._over = False

    asked = False

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._handler = signal.signal(signal.SIGTERM, lambda *_: None)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="stop", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGTERM, self._handler)
        self._over = True
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _listen(self) -> None:
        limit = None
        while not self._over:
            waiting = None if limit is None else LOOK_SECONDS
            heard = select.select([self._read], [], [], waiting)[0]
            if heard and signal.SIGTERM in os.read(self._read, 64):
                self.asked = True
                if limit is None and self._grace is not None:
                    limit = time.monotonic() + self._grace
            if limit is not None and not self._over:
                self._end_late(limit)

    def _end_late(self, limit: float) -> None:
        why = self._abandon()
        if why is None and time.monotonic() > limit:
            why = f"the step was not finished {self._grace:g} s after SIGTERM"
        if why is not None:
            print(f"holmes: terminated: {why}", file=sys.stderr, flush=True)
            os._exit(TERMINATED)
