"""The context group of one rank: rings and exchanges of its attention, each counted.

The computing thread alone calls these, so all members issue them in the same order.
Tensors are [..., tokens, features]; the length may differ from rank to rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from holmes.runtime import collectives
from holmes.runtime.collectives import Shift
from holmes.runtime.tensor.tally import GroupAxis

VALUES, SUMS = 0, 1
"""Tags of what is passed around to be read, and of sums that grow on their way."""


class Passing:
    """A tensor on its way to the next rank, another one coming."""

    def __init__(self, shift: Shift, axis: GroupAxis) -> None:
        self._shift, self._axis = shift, axis

    def wait(self) -> Tensor:
        """What came.

        Raises:
            RankDiedError: the rank before did not answer.
        """
        comm = self._shift.comm
        neighbours = {comm.ranks[comm.index - 1], comm.ranks[(comm.index + 1) % comm.size]}
        with self._axis.outside(neighbours):
            return self._shift.wait()


class ContextAxis(GroupAxis):
    """The communication of one context group."""

    def circulate(self, own: Tensor, held: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """(place of its owner, tensor) of every rank, the own one first.

        While one is read the next is on its way: do not write to it.

        Args:
            own: [..., S, K], contiguous.
            held: by rank, the length S of its tensor.
        """
        current, sent = own, 0
        for step in range(self.size):
            owner = (self.index - step) % self.size
            passing = None
            if step < self.size - 1:
                passing = self.pass_on(current, held[owner - 1], VALUES)
                sent += current.nbytes
            yield owner, current
            if passing is not None:
                current = passing.wait()
        self.count("ring", sent)

    def pass_on(self, tensor: Tensor, length: int, tag: int) -> Passing:
        """Begin to send [..., S, K] to the next rank; ``length`` tokens come from the one before.

        The caller counts.
        """
        incoming = tensor.new_empty((*tensor.shape[:-2], length, tensor.shape[-1]))
        return Passing(collectives.post_shift(self.comm, tensor, incoming, tag), self)

    def exchange(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> None:
        """Send each rank its tensor, and fill those from each.

        Raises:
            RankDiedError: a rank did not answer.
        """
        if self.size == 1:
            incoming[0].copy_(outgoing[0])
        else:
            with self.outside():
                collectives.all_to_all(self.comm, list(outgoing), list(incoming))
        sent = sum(t.nbytes for i, t in enumerate(outgoing) if i != self.index)
        self.count("all_to_all", sent)


def matching_type(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three in one width: under autocast the one that it computes in."""
    kind = q.device.type
    dtype = q.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return q.to(dtype), k.to(dtype), v.to(dtype)
