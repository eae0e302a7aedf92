"""AdamW on flat buckets, its states sharded over the data group.

Each rank updates its own interval of every bucket and the parameters are gathered
afterwards (``sharding: optimizer``). With ``sharding: none`` every rank keeps all
states: the reduced *gradients* are gathered instead, the same bytes, and the update of
the whole bucket follows on each rank. Both give the bits of plain AdamW, because the
update is elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from holmes.errors import HolmesError
from holmes.runtime import collectives
from holmes.runtime.checkpoint.shard import Shard
from holmes.runtime.communicator import Communicator
from holmes.runtime.sharding.bucket_state import STATES, AdamWSettings, BucketState
from holmes.runtime.sharding.buckets import FlatBucket
from holmes.runtime.sharding.norm import clip_coefficient, global_norm, sum_of_squares
from holmes.runtime.sharding.tied import sum_whole
from holmes.runtime.tensor.shared import StepSums

STEP_NAME = "optimizer/step"


@dataclass(frozen=True)
class Outcome:
    """What a step did; ``applied`` is false where the norm was not finite, on all ranks."""

    norm: float
    applied: bool


class StepOptimizer(Protocol):
    """What the interpreter needs of an optimiser; the data group's lane calls the first three."""

    def reduce(self, bucket: int, comm: Communicator) -> None:
        """Sum a bucket's gradients over the group; this rank keeps its part."""

    def gather(self, bucket: int, comm: Communicator) -> None:
        """Bring a bucket's parameters up to date on all members."""

    def sum_tied(self, bucket: int, comm: Communicator) -> None:
        """Add the gradients of a tied weight and its twin, on both."""

    def add_squares(self, squares: Tensor) -> None:
        """Add this rank's part of each tensor's squared norm to a fp64 vector."""

    def step(self, squares: Tensor) -> Outcome:
        """Update this rank's part, given the squared norms of all tensors."""


FAR_ABOVE = 100.0
"""Squared norms of a rank's own gradients in two steps are rarely further apart."""


def rank_of(value: float) -> float:
    """Orders squares with those that are no numbers first."""
    return value if math.isfinite(value) else math.inf


def _common(bucket: FlatBucket) -> str:
    """What a bucket is called on every rank that holds the same part of the same tensors."""
    first = bucket.placed[0].slot
    return f"{first.name} and {len(bucket.placed) - 1} more, {first.piece and first.piece.box}"


def _sum_of_words(flat: Tensor) -> int:
    return int(flat.view(torch.uint8).view(torch.int32).sum(dtype=torch.int64))


class ShardedAdamW:
    """AdamW over the buckets of one stage; see the module text.

    Args:
        buckets: from :func:`holmes.runtime.sharding.buckets.flatten`.
        keep_whole: every rank keeps all states (``sharding: none``).
        shared: sums what several tensor ranks hold; None without tensor ranks.
        whole_ties: a tied weight is summed over all ranks that hold it or a piece of it,
            because its two stages are divided differently.
    """

    def __init__(
        self,
        buckets: tuple[FlatBucket, ...],
        settings: AdamWSettings,
        members: int,
        *,
        keep_whole: bool = False,
        shared: StepSums | None = None,
        whole_ties: bool = False,
    ) -> None:
        self._whole_ties = whole_ties
        self._shared = shared
        self._buckets = {bucket.index: bucket for bucket in buckets}
        self._settings = settings
        self._deferred = keep_whole and members > 1
        self._learning_rate = 0.0
        # Deferred updates, (clipping coefficient, learning rate) of the step they belong to.
        self._pending: dict[int, tuple[float, float]] = {}
        # Filled as buckets are reduced, under the backward, so that the norm is soon known.
        self._squares: dict[int, list[tuple[int, Tensor]]] = {}
        self._norm_limit = math.inf
        # Squared norms of this rank's own gradients, and those of the last applied step.
        self._own: dict[int, Tensor] = {}
        self._usual: dict[int, Tensor] = {}
        self._states = {b.index: BucketState(b, settings, whole=self._deferred) for b in buckets}
        longest = max(buckets, key=lambda b: b.gradients.numel()).gradients
        needed = collectives.scratch_elements(longest.numel(), members)
        self._scratch = longest.new_empty(needed)

    def set_learning_rate(self, value: float) -> None:
        """The learning rate of the steps that follow."""
        self._learning_rate = value

    def set_norm_limit(self, value: float) -> None:
        """A step whose norm is larger, or no number, changes nothing."""
        self._norm_limit = value

    def suspects(self) -> list[str]:
        """After a step that changed nothing: tensors, the largest first, of buckets in which this
        rank's own gradients, before any exchange, were no numbers or far above the last ones."""
        found = []
        for index, own in self._own.items():
            usual = self._usual.get(index)
            value, limit = float(own), math.inf if usual is None else FAR_ABOVE * float(usual)
            if not (math.isfinite(value) and value <= limit):
                found += [item.slot for item in self._buckets[index].placed]
        most = self._last_squares
        order = sorted(found, key=lambda slot: -rank_of(float(most[slot.norm_index])))
        return [slot.name for slot in order]

    def checksums(self) -> dict[str, int]:
        """Of each bucket's parameters, which replicas hold alike; sees every flipped bit."""
        return {_common(b): _sum_of_words(b.parameters) for b in self._buckets.values()}

    def _remember(self, bucket: FlatBucket) -> None:
        flat = bucket.gradients
        self._own[bucket.index] = torch.dot(flat, flat)

    def parameters(self) -> Iterator[Tensor]:
        """The flat parameters of each bucket, as they are on this rank."""
        return (bucket.parameters for bucket in self._buckets.values())

    def gradients(self) -> Iterator[Tensor]:
        """The flat gradients of each bucket, as they are now."""
        return (bucket.gradients for bucket in self._buckets.values())

    def reduce(self, bucket: int, comm: Communicator) -> None:
        self._remember(self._buckets[bucket])
        collectives.reduce_scatter(comm, self._buckets[bucket].gradients, self._scratch)
        self._squares[bucket] = self._squares_of(self._buckets[bucket])

    def gather(self, bucket: int, comm: Communicator) -> None:
        flat = self._buckets[bucket]
        if not self._deferred:
            collectives.all_gather(comm, flat.parameters)
            return
        pending = self._pending.pop(bucket, None)
        collectives.all_gather(comm, flat.gradients)
        if pending is not None:
            self._states[bucket].update(*pending)
        flat.gradients.zero_()

    def sum_tied(self, bucket: int, comm: Communicator) -> None:
        flat = self._buckets[bucket]
        for item in flat.tied:
            gradient = flat.gradients[item.start : item.stop]
            if self._whole_ties:
                sum_whole(comm, gradient, item.slot, first=flat.shard[0] == 0)
            else:
                collectives.all_reduce(comm, gradient)

    def add_squares(self, squares: Tensor) -> None:
        if self._shared is not None:
            self._shared.sum(self._buckets.values())
        for index, bucket in self._buckets.items():
            early = self._squares.pop(index, None)
            if early is None:  # nobody to exchange it with
                self._remember(bucket)
                early = self._squares_of(bucket)
            for place, square in (*early, *self._squares_of(bucket, shared=True)):
                squares[place] += square

    @staticmethod
    def _squares_of(bucket: FlatBucket, *, shared: bool = False) -> list[tuple[int, Tensor]]:
        """(place in the norm vector, sum of squares) of this rank's part of each tensor.

        Those that tensor ranks share are apart: their gradients are complete later.
        """
        found = []
        for item in bucket.placed:
            low, high = item.overlap(*bucket.shard)
            if item.slot.counted and item.slot.shared is shared and low < high:
                found.append((item.slot.norm_index, sum_of_squares(bucket.gradients[low:high])))
        return found

    def step(self, squares: Tensor) -> Outcome:
        norm = global_norm(squares)
        applied = math.isfinite(norm) and norm <= self._norm_limit
        self._last_squares = squares
        if applied:
            self._usual, self._own = self._own, {}
        coefficient = clip_coefficient(norm, self._settings.clip)
        for index, state in self._states.items():
            if self._deferred:
                if applied:
                    self._pending[index] = (coefficient, self._learning_rate)
                else:
                    self._buckets[index].gradients.zero_()
                continue
            if applied:
                state.update(coefficient, self._learning_rate)
            self._buckets[index].gradients.zero_()
        return Outcome(norm, applied)

    def named_shards(self) -> dict[str, Shard]:
        """What this rank contributes to a checkpoint: parameters, both moments, the step count.

        Names: ``parameters/<name>``, ``exp_avg/<name>``, ``exp_avg_sq/<name>`` and
        ``optimizer/step``. Over all ranks the intervals of a name cover it exactly once
        (the step count is held by every rank). Bring parameters up to date first.

        Raises:
            HolmesError: when an update is still pending.
        """
        if self._pending:
            raise HolmesError("parameters are not up to date; call gather_parameters() first")
        found: dict[str, Shard] = {}
        for index, bucket in self._buckets.items():
            state = self._states[index]
            found[STEP_NAME] = Shard(torch.tensor([state.count]), (1,), 0, 1)
            for item in bucket.placed:
                low, high = item.overlap(*bucket.shard)
                high = min(high, item.start + item.slot.elements)
                if not item.slot.counted or low >= high:
                    continue
                values = {
                    "parameters": bucket.parameters[low:high],
                    **state.moments(low, high),
                }
                for kind, tensor in values.items():
                    found[f"{kind}/{item.slot.name}"] = Shard(
                        tensor,
                        item.slot.shape,
                        low - item.start,
                        high - item.start,
                        item.slot.piece.box if item.slot.piece else None,
                    )
        return found

    @torch.no_grad()
    def load_named(self, read: Callable[[str], Tensor]) -> None:
        """Take parameters and states from whole tensors by the names of :meth:`named_shards`.

        Parameters are complete afterwards on every rank; nothing needs gathering.
        """
        count = float(read(STEP_NAME).item())
        self._pending.clear()
        for index, bucket in self._buckets.items():
            state = self._states[index]
            state.set_count(count)
            bucket.gradients.zero_()
            for item in bucket.placed:
                slot = item.slot
                slot.parameter.copy_(slot.take(read(f"parameters/{slot.name}")))
                for kind in STATES:
                    state.load(kind, item, slot.take(read(f"{kind}/{slot.name}")))
