"""The lane of a tensor group: parts of its collectives run beside the computing thread.

Inside a block nothing is listed, so this is a lane without instructions: the computing
thread begins a part and waits for it where its result is needed. All members begin the same
parts in the same order.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from holmes.events.join import COMPUTE_LANE
from holmes.runtime.clock import Clock
from holmes.runtime.lanes import own_stream

Work = Callable[[], Tensor]


@dataclass(frozen=True)
class Part:
    """Something that ran inside an instruction, [start, stop) nanoseconds."""

    lane: str
    op: str
    start: int
    stop: int
    bytes_: int = 0


class PartLog:
    """What ran inside the instruction under way; written by the computing thread and lanes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._parts: list[Part] = []

    @contextmanager
    def timed(self, op: str, lane: str = COMPUTE_LANE, bytes_: int = 0) -> Iterator[None]:
        """Note what runs in here."""
        start = self._clock()
        yield
        self._parts.append(Part(lane, op, start, self._clock(), bytes_))

    def take(self) -> list[Part]:
        """The parts since the last call, by start."""
        taken = sorted(self._parts, key=lambda part: part.start)
        self._parts.clear()
        return taken


class Pending:
    """A part under way."""

    def __init__(self, op: str, work: Work, bytes_: int, ready: torch.cuda.Event | None) -> None:
        self._op, self._work, self._bytes, self._ready = op, work, bytes_, ready
        self._done = threading.Event()
        self._result: Tensor | None = None
        self._error: BaseException | None = None

    def run(self, lane: str, log: PartLog) -> None:
        """Called by the lane. A failure is kept for who waits."""
        try:
            if self._ready is not None:
                torch.cuda.current_stream().wait_event(self._ready)
            with log.timed(self._op, lane, self._bytes):
                self._result = self._work()
                if self._result.is_cuda:
                    torch.cuda.current_stream().synchronize()
        except BaseException as error:
            self._error = error
        self._done.set()

    def wait(self) -> Tensor:
        """The result, once it is there; raises what the lane met."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        if self._result.is_cuda:
            self._result.record_stream(torch.cuda.current_stream())
        return self._result


class Lane:
    """One thread that runs parts one after the other. It ends with the last reference to this."""

    def __init__(self, name: str, device: torch.device, log: PartLog) -> None:
        self._waiting: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._device = device
        arguments = (self._waiting, name, device, log)
        threading.Thread(target=_run, args=arguments, name=name, daemon=True).start()
        weakref.finalize(self, self._waiting.put, None)

    def begin(self, op: str, work: Work, bytes_: int) -> Pending:
        """Hand a part over; it may read what was computed before this call."""
        ready = None
        if self._device.type == "cuda":
            ready = torch.cuda.current_stream(self._device).record_event()
        part = Pending(op, work, bytes_, ready)
        self._waiting.put(part)
        return part


def _run(
    waiting: queue.SimpleQueue[Pending | None], name: str, device: torch.device, log: PartLog
) -> None:
    with torch.no_grad(), own_stream(device):
        while (part := waiting.get()) is not None:
            part.run(name, log)
