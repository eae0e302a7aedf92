"""The tensor group of one rank: its collectives on activations, each counted.

Activations between the split parts of a block are [samples, tokens / t, features]: every
tensor rank holds its share of the tokens (Korthikanti et al. 2022, section 4.2.2). The
computing thread alone calls these, so all members issue them in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from holmes.plan.chunks import even_ranges
from holmes.runtime import collectives
from holmes.runtime.communicator import Communicator
from holmes.runtime.pipeline.pace import Pace
from holmes.runtime.tensor.lane import Lane, PartLog, Pending
from holmes.runtime.tensor.tally import GroupAxis


class TensorAxis(GroupAxis):
    """The collectives of one tensor group.

    Args:
        chunks: parts of a rank's tokens that travel one after the other beside products;
            1: collectives and products take turns.
        log: of what runs beside what.
    """

    def __init__(
        self,
        comm: Communicator,
        pace: Pace | None = None,
        *,
        chunks: int = 1,
        log: PartLog | None = None,
    ) -> None:
        super().__init__(comm, pace)
        self.chunks = chunks
        self.log = log or PartLog(time.monotonic_ns)
        self._opened: Lane | None = None

    def gather_tokens(self, part: Tensor) -> Tensor:
        """[B, S/t, D] of every rank to [B, S, D], tokens in rank order."""
        flat = part.new_empty((self.size, *part.shape))
        flat[self.index].copy_(part)
        with self.outside():
            collectives.all_gather(self.comm, flat.view(-1))
        self._count("all_gather", flat.nbytes)
        return flat.transpose(0, 1).reshape(part.shape[0], -1, *part.shape[2:])

    def scatter_sum(self, whole: Tensor) -> Tensor:
        """The sum over the ranks of [B, S, D], this rank's tokens of it: [B, S/t, D]."""
        samples, length, *rest = whole.shape
        shape = (samples, self.size, length // self.size, *rest)
        flat = whole.reshape(shape).transpose(0, 1).contiguous()
        needed = collectives.scratch_elements(flat.numel(), self.size)
        scratch = flat.new_empty(needed)
        with self.outside():
            own = collectives.reduce_scatter(self.comm, flat.view(-1), scratch)
        self._count("reduce_scatter", flat.nbytes)
        return own.view(samples, length // self.size, *rest).clone()

    def places(self, tokens: int) -> tuple[slice, ...]:
        """A rank's tokens in chunks, as even as they come."""
        return tuple(slice(*ends) for ends in even_ranges(tokens, min(self.chunks, tokens)))

    def arriving(self, own: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """:meth:`gather_tokens` of [B, S/t, D] by chunks, the later ones on their way meanwhile.

        Yields:
            The place of a chunk's W tokens in S/t, and those of every rank, [t, B, W, D].
        """
        places = self.places(own.shape[1])
        under_way = [self._begin_gather(own[:, place]) for place in places]
        self._count("all_gather", self.size * own.nbytes)
        for place, chunk in zip(places, under_way, strict=True):
            yield place, self._wait(chunk)

    def begin_sum(self, rows: Tensor) -> Pending:
        """Begin a :meth:`scatter_sum` of a chunk [t, B, W, D]; ends as [B, W, D]."""
        flat = rows.contiguous()
        work = partial(_sum_rows, self, flat)
        return self._lane(rows).begin("reduce_scatter", work, self._sent(flat.nbytes))

    def collect(self, sums: Sequence[Pending]) -> Tensor:
        """The sums of all chunks, begun in order, as one [B, S/t, D]."""
        found = torch.cat([self._wait(chunk) for chunk in sums], dim=1)
        self._count("reduce_scatter", self.size * found.nbytes)
        return found

    def _begin_gather(self, own: Tensor) -> Pending:
        rows = own.new_empty((self.size, *own.shape))
        rows[self.index].copy_(own)
        work = partial(_gather_rows, self, rows)
        return self._lane(rows).begin("all_gather", work, self._sent(rows.nbytes))

    def _wait(self, chunk: Pending) -> Tensor:
        with self.outside():
            return chunk.wait()

    def _lane(self, like: Tensor) -> Lane:
        """Opened when it is needed first."""
        if self._opened is None:
            self._opened = Lane(f"comm:{self.comm.name}", like.device, self.log)
        return self._opened

    def own_tokens(self, rows: Tensor, dim: int = 0) -> Tensor:
        """This rank's tokens of a tensor that is the same on all ranks."""
        return rows.chunk(self.size, dim)[self.index]

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
        """Combine in place; returns the tensor."""
        with self.outside():
            collectives.all_reduce(self.comm, tensor, op)
        self._count("all_reduce", tensor.nbytes, rounds=2)
        return tensor

    def _count(self, op: str, size: int, rounds: int = 1) -> None:
        """Note a collective of ``size`` bytes, in however many chunks it went."""
        self.count(op, rounds * self._sent(size))

    def _sent(self, size: int) -> int:
        return size * (self.size - 1) // self.size


def _gather_rows(axis: TensorAxis, rows: Tensor) -> Tensor:
    collectives.all_gather(axis.comm, rows.view(-1))
    return rows


def _sum_rows(axis: TensorAxis, rows: Tensor) -> Tensor:
    scratch = rows.new_empty(collectives.scratch_elements(rows.numel(), axis.size))
    return collectives.reduce_scatter(axis.comm, rows.view(-1), scratch).view(rows.shape[1:])


def compute_type(tensor: Tensor) -> Tensor:
    """The tensor as matrix products read it: under autocast it travels in that width."""
    kind = tensor.device.type
    if tensor.is_floating_point() and torch.is_autocast_enabled(kind):
        return tensor.to(torch.get_autocast_dtype(kind))
    return tensor
