"""The tensor group of one rank: its collectives on activations, each counted.

Activations between the split parts of a block are [samples, tokens / t, features]: every
tensor rank holds its share of the tokens (Korthikanti et al. 2022, section 4.2.2). The
computing thread alone calls these, so all members issue them in the same order.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from holmes.runtime import collectives
from holmes.runtime.tensor.tally import GroupAxis


class TensorAxis(GroupAxis):
    """The collectives of one tensor group."""

    def gather_tokens(self, part: Tensor) -> Tensor:
        """[B, S/t, D] of every rank to [B, S, D], tokens in rank order."""
        flat = part.new_empty((self.size, *part.shape))
        flat[self.index].copy_(part)
        with self._pace.outside():
            collectives.all_gather(self.comm, flat.view(-1))
        self._count("all_gather", flat)
        return flat.transpose(0, 1).reshape(part.shape[0], -1, *part.shape[2:])

    def scatter_sum(self, whole: Tensor) -> Tensor:
        """The sum over the ranks of [B, S, D], this rank's tokens of it: [B, S/t, D]."""
        samples, length, *rest = whole.shape
        shape = (samples, self.size, length // self.size, *rest)
        flat = whole.reshape(shape).transpose(0, 1).contiguous()
        needed = collectives.scratch_elements(flat.numel(), self.size)
        scratch = flat.new_empty(needed)
        with self._pace.outside():
            own = collectives.reduce_scatter(self.comm, flat.view(-1), scratch)
        self._count("reduce_scatter", flat)
        return own.view(samples, length // self.size, *rest).clone()

    def own_tokens(self, rows: Tensor, dim: int = 0) -> Tensor:
        """This rank's tokens of a tensor that is the same on all ranks."""
        return rows.chunk(self.size, dim)[self.index]

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
        """Combine in place; returns the tensor."""
        with self._pace.outside():
            collectives.all_reduce(self.comm, tensor, op)
        self._count("all_reduce", tensor)
        return tensor

    def _count(self, op: str, buffer: Tensor) -> None:
        rounds = 2 if op == "all_reduce" else 1
        self.count(op, rounds * buffer.nbytes * (self.size - 1) // self.size)


def compute_type(tensor: Tensor) -> Tensor:
    """The tensor as matrix products read it: under autocast it travels in that width."""
    kind = tensor.device.type
    if tensor.is_floating_point() and torch.is_autocast_enabled(kind):
        return tensor.to(torch.get_autocast_dtype(kind))
    return tensor
