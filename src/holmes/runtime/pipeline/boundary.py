"""The boundary buffers of one rank: what computation leaves for lanes, and lanes for it.

A buffer may be sent in parts to several ranks, and filled in parts by several. Lanes work on
parts at the same time; computation waits for all of them by instruction, not here.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from holmes.schedule.instruction import Instruction, Op, PeerSlice

Room = Callable[[], Tensor]


class Boundaries:
    """Buffers by name.

    Args:
        instructions: of this rank; they say how many lanes read each buffer.
    """

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self._lock = threading.Lock()
        self._buffers: dict[str, Tensor] = {}
        self._sends = Counter(ins.buffer for ins in instructions if ins.op is Op.SEND)
        self._readers: dict[str, int] = {}

    def leave(self, name: str, tensor: Tensor) -> None:
        """Leave a tensor, contiguous, for the lanes that send it."""
        with self._lock:
            self._buffers[name] = tensor
            self._readers[name] = self._sends[name]

    def outgoing(self, ins: Instruction) -> Tensor:
        """What a send passes on, contiguous."""
        with self._lock:
            whole = self._buffers[ins.buffer]
            self._readers[ins.buffer] -= 1
            if not self._readers[ins.buffer]:
                del self._buffers[ins.buffer]
        return part_of(whole, ins.peer)

    def incoming(self, ins: Instruction, room: Room) -> Tensor:
        """Where a receive puts its part; :meth:`arrived` follows.

        Args:
            room: makes the whole buffer.
        """
        with self._lock:
            name = whole_name(ins)
            if name not in self._buffers:
                self._buffers[name] = room()
            return part_of(self._buffers[name], ins.peer)

    def arrived(self, ins: Instruction, part: Tensor) -> None:
        """Put a part in its place, where it was not received there."""
        if len(ins.peer) > 1:
            place(self._buffers[whole_name(ins)], ins.peer, part)

    def take(self, name: str) -> Tensor:
        """A buffer that all its parts have arrived in."""
        with self._lock:
            return self._buffers.pop(name)


def whole_name(ins: Instruction) -> str:
    """The buffer that a receive fills, or a part of it."""
    what = "input" if ins.lane.endswith(".down") else "output_gradient"
    return f"{what}.s{ins.stage}.m{ins.microbatch}"


def part_of(whole: Tensor, slices: Sequence[PeerSlice]) -> Tensor:
    """The byte intervals of a contiguous tensor: a view of one, a copy of several."""
    if len(slices) == 1 and (slices[0].start, slices[0].stop) == (0, whole.nbytes):
        return whole
    flat = whole.view(-1)
    parts = [flat[_elements(flat, one)] for one in slices]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def place(whole: Tensor, slices: Sequence[PeerSlice], part: Tensor) -> None:
    """The inverse of :func:`part_of`: write a part to its intervals."""
    flat, start = whole.view(-1), 0
    for one in slices:
        target = flat[_elements(flat, one)]
        target.copy_(part.view(-1)[start : start + target.numel()])
        start += target.numel()


def _elements(flat: Tensor, one: PeerSlice) -> slice:
    return slice(one.start // flat.element_size(), one.stop // flat.element_size())
