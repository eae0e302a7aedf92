"""Relay: carries the frames between a port and its bridge, and loses or delays some of them.

Two TAP devices, one on either side, and a thread that reads the one and writes the other.
It is there only while something is to be lost or late; a lab without such a fault has none.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x4004_54CA
TAP_WITHOUT_HEADER = 0x1002
MOST_BYTES = 65_536
LOOK_SECONDS = 0.1
AT_ONCE = 64
"""Frames read from one side before the other side is looked at."""


@dataclass(frozen=True)
class Impairment:
    """What a relay does to every frame, each way.

    Attributes:
        loss: probability that it is dropped.
        delay: seconds added.
        jitter: up to as many seconds more, uniform. Frames stay in order, as in a queue.
    """

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.loss or self.delay or self.jitter)


@dataclass
class Passed:
    """What a relay saw: frames that came, that it dropped on purpose, and that nobody took."""

    frames: int = 0
    lost: int = 0
    refused: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass
class _Way:
    """One direction: from one TAP to the other, with the frames that are under way."""

    source: int
    target: int
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)


class Relay:
    """Two TAP devices of this network namespace and the thread between them.

    Args:
        names: of the two devices; they vanish with :meth:`close`.

    Raises:
        OSError: TAP devices cannot be made here.
    """

    def __init__(self, names: tuple[str, str], impairment: Impairment, seed: int = 0) -> None:
        self.impairment = impairment
        self.passed = Passed()
        self._draw = random.Random(seed)
        first = _tap(names[0])
        try:
            second = _tap(names[1])
        except OSError:
            os.close(first)
            raise
        self._ways = (_Way(first, second), _Way(second, first))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Carry frames from now on; both devices have to be up."""
        self._thread.start()

    def close(self) -> Passed:
        """Take the devices away; frames under way are lost."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        for way in self._ways:
            os.close(way.source)
        return self.passed

    def _run(self) -> None:
        ways = {way.source: way for way in self._ways}
        while not self._stopped.is_set():
            due = min((way.waiting[0][0] for way in self._ways if way.waiting), default=None)
            left = LOOK_SECONDS if due is None else max(0.0, due - time.monotonic())
            for ready in select.select(list(ways), [], [], min(left, LOOK_SECONDS))[0]:
                self._take(ways[ready])
            for way in self._ways:
                self._deliver(way)

    def _take(self, way: _Way) -> None:
        """Read what has come: drop it, or note when it is due."""
        shape = self.impairment
        for _ in range(AT_ONCE):
            try:
                frame = os.read(way.source, MOST_BYTES)
            except BlockingIOError:
                return
            self.passed.frames += 1
            if self._draw.random() < shape.loss:
                self.passed.lost += 1
                continue
            due = time.monotonic() + shape.delay + shape.jitter * self._draw.random()
            if way.waiting:
                due = max(due, way.waiting[-1][0])
            way.waiting.append((due, frame))

    def _deliver(self, way: _Way) -> None:
        now = time.monotonic()
        while way.waiting and way.waiting[0][0] <= now:
            _, frame = way.waiting.popleft()
            try:
                os.write(way.target, frame)
            except OSError:  # the device is down, as behind a cable that is cut
                self.passed.refused += 1


def _tap(name: str) -> int:
    """Make a TAP device without offloads: the kernel cuts what it hands over into frames."""
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(
            descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_WITHOUT_HEADER)
        )
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
