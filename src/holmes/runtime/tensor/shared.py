"""Gradients of what several tensor ranks hold: each saw its tokens or heads, the sum counts.

Summed once a step, after the data groups have summed theirs and before the norms: by then
the computing thread has no collective of the group under way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from holmes.runtime import collectives
from holmes.runtime.sharding.buckets import FlatBucket
from holmes.runtime.tensor.axis import TensorAxis
from holmes.runtime.tensor.tally import Tally, check


@dataclass(frozen=True)
class _Part:
    """This rank's interval of a shared tensor's gradient, and where it is in the sum."""

    gradient: Tensor
    parts: int
    part: int


class StepSums(Protocol):
    """What the computing thread does once a step, between the data groups and the norms."""

    def sum(self, buckets: Iterable[FlatBucket]) -> None:
        """Complete the gradients of a rank's buckets."""


class SharedGradients:
    """Sums the shared tensors of a rank over its tensor group, all in one collective.

    A tensor of which there are several pieces, each on several ranks, has room for all of
    them: everybody adds to its own.

    Args:
        expected: of one micro-batch through the stages of this rank.
        microbatches: of a step.
    """

    def __init__(self, axis: TensorAxis, expected: Tally, microbatches: int) -> None:
        self._axis, self._expected, self._microbatches = axis, expected, microbatches

    def sum(self, buckets: Iterable[FlatBucket]) -> None:
        """Sum over the group, where this rank's shards hold them; checks the step's tally."""
        where = f"rank {self._axis.comm.ranks[self._axis.index]}, {self._axis.comm}"
        check(self._axis.take_tally(), self._expected, self._microbatches, where)
        parts = [part for bucket in buckets for part in _shared_parts(bucket)]
        total = sum(part.parts * part.gradient.numel() for part in parts)
        if not total:
            return
        flat = parts[0].gradient.new_zeros(total)
        mine, start = [], 0
        for part in parts:
            length = part.gradient.numel()
            own = flat[start + part.part * length : start + (part.part + 1) * length]
            own.copy_(part.gradient)
            mine.append(own)
            start += part.parts * length
        collectives.all_reduce(self._axis.comm, flat)
        for part, own in zip(parts, mine, strict=True):
            part.gradient.copy_(own)


def _shared_parts(bucket: FlatBucket) -> Iterable[_Part]:
    for item in bucket.placed:
        piece = item.slot.piece
        low, high = item.overlap(*bucket.shard)
        if piece is not None and piece.shared and low < high:
            yield _Part(bucket.gradients_in(low, high), piece.parts, piece.part)
