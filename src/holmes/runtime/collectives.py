"""Collectives and transfers on one communicator; every call blocks until it is done.

On gloo, reduce-scatter and all-gather are a direct exchange: member i sends chunk j
to member j while it receives, all transfers in flight at once. That moves the bytes of
a ring, (n-1)/n of the buffer per member, where gloo's own move more
(docs/design/0002-direct-exchange.md). NCCL uses its own, in place: member i's chunk is
the i-th of the buffer. There a wait with a deadline polls once a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from holmes.runtime.communicator import Communicator

TAG = 0
REDUCE_OPS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


class Pending(Protocol):
    """A communication under way, as torch.distributed returns it."""

    def wait(self, timeout: timedelta, /) -> bool: ...


def own_chunk(comm: Communicator, flat: Tensor) -> Tensor:
    """This member's n-th part of a flat buffer, a view."""
    return _chunk(comm, flat, comm.index)


def scratch_elements(elements: int, members: int) -> int:
    """Elements of scratch that reduce_scatter of a buffer of ``elements`` needs."""
    return elements // members * (members - 1)


def reduce_scatter(
    comm: Communicator, flat: Tensor, scratch: Tensor, order: Sequence[int] | None = None
) -> Tensor:
    """Sum a buffer over the members; each keeps the sum of its own chunk, in place.

    The sum is taken in rank order, so it does not depend on who arrives first. The
    other chunks of ``flat`` keep this member's values.

    Args:
        flat: contiguous 1-d buffer, its length a multiple of the group size n.
        scratch: at least :func:`scratch_elements` elements of the same type; unused on NCCL.
        order: by member, which chunk is its own; None: its place in the group.

    Returns:
        A view of the chunk that now holds the sum, [len(flat) / n].
    """
    own = _chunk(comm, flat, comm.index if order is None else order[comm.index])
    if comm.backend == "nccl":
        source = flat
        if order is not None:  # chunks in rank order, as the native collective wants them
            source = torch.cat([_chunk(comm, flat, number) for number in order])
        options = dist.ReduceScatterOptions()
        _wait(comm, comm.process_group._reduce_scatter_base(own, source, options))
        return own
    parts = exchange(comm, flat, scratch, order)
    total = parts[0]
    for part in parts[1:]:
        # The first part is scratch, or this member's own chunk: either may be overwritten.
        total = total.add_(part)
    if total is not own:
        own.copy_(total)
    return own


def exchange(
    comm: Communicator, flat: Tensor, scratch: Tensor, order: Sequence[int] | None = None
) -> list[Tensor]:
    """Send each member its chunk and receive everybody's version of the own chunk.

    Returns:
        The n versions of this member's chunk, in rank order; views of ``flat`` and ``scratch``.
    """
    chunks = [_chunk(comm, flat, i) for i in (range(comm.size) if order is None else order)]
    own = chunks[comm.index]
    slots = scratch[: scratch_elements(flat.numel(), comm.size)].view(comm.size - 1, own.numel())
    incoming = iter(slots.unbind())
    parts = [own if i == comm.index else next(incoming) for i in range(comm.size)]
    _all_pairs(comm, dict(enumerate(chunks)), dict(enumerate(parts)))
    return parts


def all_gather(comm: Communicator, flat: Tensor) -> None:
    """Fill a buffer in place with every member's own chunk of it.

    Args:
        flat: contiguous 1-d buffer, its length a multiple of the group size.
    """
    own = own_chunk(comm, flat)
    if comm.backend == "nccl":
        _wait(comm, comm.process_group._allgather_base(flat, own))
        return
    everybody = range(comm.size)
    _all_pairs(comm, dict.fromkeys(everybody, own), {i: _chunk(comm, flat, i) for i in everybody})


def all_reduce(comm: Communicator, tensor: Tensor, op: Literal["sum", "max"] = "sum") -> None:
    """Combine a tensor over all members, in place; all end with the same bits."""
    options = dist.AllreduceOptions()
    options.reduceOp = REDUCE_OPS[op]  # type: ignore[assignment]
    _wait(comm, comm.process_group.allreduce([tensor], options))


def send(comm: Communicator, tensor: Tensor, rank: int) -> None:
    """Send a contiguous tensor to a logical rank of the group."""
    _wait(comm, comm.process_group.send([tensor], comm.index_of(rank), TAG))


def receive(comm: Communicator, tensor: Tensor, rank: int) -> None:
    """Receive into a contiguous tensor from a logical rank of the group."""
    _wait(comm, comm.process_group.recv([tensor], comm.index_of(rank), TAG))


@dataclass(frozen=True)
class Shift:
    """A step of a ring under way: one tensor to the next member, one from the one before."""

    comm: Communicator
    outgoing: Tensor
    incoming: Tensor
    works: tuple[Pending, ...]
    posted: int

    def wait(self) -> Tensor:
        """What came; ``outgoing`` may be changed from now on."""
        before = time.monotonic_ns()
        for place, work in enumerate(self.works):
            _wait(self.comm, work)
            if place == 0:
                source = self.comm.ranks[self.comm.index - 1]
                size = self.incoming.nbytes
                self.comm.meter.note(source, self.posted, before, size, first=True)
        return self.incoming


def post_shift(comm: Communicator, outgoing: Tensor, incoming: Tensor, tag: int = TAG) -> Shift:
    """Begin to pass a contiguous tensor on around the ring of the members, in rank order.

    Args:
        tag: keeps two rings apart that are under way at the same time.
    """
    group, index = comm.process_group, comm.index
    following, previous = (index + 1) % comm.size, (index - 1) % comm.size
    posted = time.monotonic_ns()
    works: tuple[Pending, ...]
    if comm.backend == "nccl":
        # One launch for both directions: a send alone would wait for its receive.
        group._start_coalescing(outgoing.device)
        group.recv([incoming], previous, tag)
        group.send([outgoing], following, tag)
        works = (group._end_coalescing(outgoing.device),)
    else:
        works = (
            group.recv([incoming], previous, tag),
            group.send([outgoing], following, tag),
        )
    return Shift(comm, outgoing, incoming, works, posted)


def all_to_all(comm: Communicator, outgoing: list[Tensor], incoming: list[Tensor]) -> None:
    """Send member i the i-th contiguous tensor and fill the i-th with what it sends here."""
    if comm.backend == "nccl":
        _wait(comm, comm.process_group.alltoall(incoming, outgoing, dist.AllToAllOptions()))
        return
    incoming[comm.index].copy_(outgoing[comm.index])
    _all_pairs(comm, dict(enumerate(outgoing)), dict(enumerate(incoming)))


def barrier(comm: Communicator, device: torch.device) -> None:
    """Return when every member has called it."""
    all_reduce(comm, torch.zeros(1, device=device))
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _chunk(comm: Communicator, flat: Tensor, index: int) -> Tensor:
    size, rest = divmod(flat.numel(), comm.size)
    assert rest == 0, f"{flat.numel()} elements do not divide over {comm.size} members"
    return flat[index * size : (index + 1) * size]


def _all_pairs(
    comm: Communicator, outgoing: dict[int, Tensor], incoming: dict[int, Tensor]
) -> None:
    """Post all receives and sends with the other members, then wait for all of them."""
    group = comm.process_group
    others = [i for i in range(comm.size) if i != comm.index]
    posted = time.monotonic_ns()
    receives = {i: group.recv([incoming[i]], i, TAG) for i in others}
    sends = [group.send([outgoing[i]], i, TAG) for i in others]
    for place, i in enumerate(comm.meter.order(others)):
        before = time.monotonic_ns()
        _wait(comm, receives[i])
        comm.meter.note(comm.ranks[i], posted, before, incoming[i].nbytes, first=place == 0)
    for work in sends:
        _wait(comm, work)


def _wait(comm: Communicator, work: Pending) -> None:
    work.wait(comm.timeout)
