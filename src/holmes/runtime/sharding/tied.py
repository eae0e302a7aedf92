"""The gradient of a weight that two stages share which are divided differently."""

from __future__ import annotations

from torch import Tensor

from holmes.runtime import collectives
from holmes.runtime.communicator import Communicator
from holmes.runtime.sharding.buckets import Slot


def sum_whole(comm: Communicator, gradient: Tensor, slot: Slot, *, first: bool) -> None:
    """Sum over all ranks of both stages, whole, in place; each keeps its piece.

    The data group adds up what its members hold afterwards, so the first replica of each
    stage keeps the sum and the others zero.

    Args:
        gradient: flat, this rank's piece of the weight.
        first: whether this rank is of the first replica.
    """
    whole = gradient.new_zeros(slot.shape)
    if slot.piece is None:
        whole.view(-1).copy_(gradient)
    else:
        slot.piece.put(whole, gradient)
    collectives.all_reduce(comm, whole)
    if first:
        gradient.copy_(slot.take(whole).reshape(-1))
    else:
        gradient.zero_()
