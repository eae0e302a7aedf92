"""AdamW on flat buckets, with as much sharded over the data group as the plan says.

Each rank updates its own interval of every bucket and what others keep of it is gathered
afterwards. With ``sharding: none`` every rank keeps all states: the reduced *gradients*
are gathered instead, the same bytes, and the update of the whole bucket follows on each
rank. All give the bits of plain AdamW on the same sums, because the update is elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from holmes.errors import HolmesError
from holmes.plan.layout import Quantize
from holmes.runtime import collectives
from holmes.runtime.checkpoint.shard import Shard
from holmes.runtime.communicator import Communicator
from holmes.runtime.sharding.bucket_state import STATES, AdamWSettings, BucketState
from holmes.runtime.sharding.buckets import FlatBucket
from holmes.runtime.sharding.loss_scale import LossScale
from holmes.runtime.sharding.norm import clip_coefficient, global_norm, sum_of_squares
from holmes.runtime.sharding.tied import sum_whole
from holmes.runtime.sharding.wire import Wire
from holmes.runtime.tensor.shared import StepSums

STEP_NAME = "optimizer/step"
SCALE_NAME = "optimizer/loss_scale"


@dataclass(frozen=True)
class Outcome:
    """What a step did; ``applied`` is false where the norm was not finite, on all ranks.

    ``rescaled`` says that this was the loss scale's doing, which is lower now.
    """

    norm: float
    applied: bool
    rescaled: bool = False


class StepOptimizer(Protocol):
    """What the interpreter needs of an optimiser; lanes call the collectives, one lane a group."""

    def gather(self, bucket: int, comm: Communicator) -> None:
        """Make a bucket's weights whole, before computations that hold it."""

    def reduce(self, bucket: int, comm: Communicator) -> None:
        """Sum a bucket's gradients over the group; this rank keeps its part."""

    def across(self, bucket: int, comm: Communicator) -> None:
        """Add up what the middle groups have summed."""

    def refresh(self, bucket: int, comm: Communicator, *, part: bool) -> None:
        """Bring the kept weights up to date, or first the part that the sums are of."""

    def sum_tied(self, bucket: int, comm: Communicator) -> None:
        """Add the gradients of a tied weight and its twin, on both."""

    def open(self, buckets: Sequence[int]) -> None:
        """Make room for the gradients of buckets that a backward is about to add to."""

    def free(self, buckets: Sequence[int]) -> None:
        """Let the whole weights of these buckets go."""

    def add_squares(self, squares: Tensor) -> None:
        """Add this rank's part of each tensor's squared norm to a fp64 vector."""

    def step(self, squares: Tensor) -> Outcome:
        """Update this rank's part, given the squared norms of all tensors."""


MOST_IN_A_DOT = 1 << 30
"""Elements: products of vectors count in 32 bits."""
FAR_ABOVE = 100.0
"""Squared norms of a rank's own gradients rarely exceed those of the last step's sums by more."""


def rank_of(value: float) -> float:
    """Orders squares with those that are no numbers first."""
    return value if math.isfinite(value) else math.inf


def _common(bucket: FlatBucket) -> str:
    """What a bucket is called on every rank that holds the same part of the same tensors."""
    first = bucket.placed[0].slot
    part = f"{first.piece and first.piece.box}, {bucket.kept_interval}"
    return f"{first.name} and {len(bucket.placed) - 1} more, {part}"


def _leaves_others(bucket: FlatBucket) -> bool:
    """Whether the one exchange of a step overwrites no more than the part that this rank updates:
    a reduce-scatter in place, with the whole gradients kept until the step."""
    shards = bucket.shards
    return shards.gradients == 1 and shards.states == shards.members > 1


def _sum_of_words(flat: Tensor) -> int:
    return int(flat.view(torch.uint8).view(torch.int32).sum(dtype=torch.int64))


class ShardedAdamW:
    """AdamW over the buckets of one rank; see the module text.

    Attributes:
        scale: what the loss is multiplied by, and updates divide by.

    Args:
        buckets: from :func:`holmes.runtime.sharding.buckets.flatten`.
        keep_whole: every rank keeps all states (``sharding: none``).
        shared: sums what several tensor ranks hold; None without tensor ranks.
        whole_ties: a tied weight is summed over all ranks that hold it or a piece of it,
            because its two stages are divided differently.
        quantize: how gathered weights and reduced gradients go over the wire.
    """

    def __init__(
        self,
        buckets: tuple[FlatBucket, ...],
        settings: AdamWSettings,
        *,
        keep_whole: bool = False,
        shared: StepSums | None = None,
        whole_ties: bool = False,
        quantize: Quantize = "none",
    ) -> None:
        self._whole_ties = whole_ties
        self._shared = shared
        self._buckets = {bucket.index: bucket for bucket in buckets}
        self._settings = settings
        first = settings.loss_scale
        self.scale = LossScale(first or 1.0, settings.loss_scale_steps, dynamic=first is not None)
        self._deferred = keep_whole and any(bucket.shards.members > 1 for bucket in buckets)
        self._wire = Wire(quantize)
        self._learning_rate = 0.0
        # Deferred updates, (clipping coefficient, learning rate) of the step they belong to.
        self._pending: dict[int, tuple[float, float]] = {}
        # Filled as buckets are reduced, under the backward, so that the norm is soon known.
        self._squares: dict[int, list[tuple[int, Tensor]]] = {}
        self._norm_limit = math.inf
        # Squared norms of this step's own gradients that an exchange has overwritten, by bucket.
        self._own: dict[int, Tensor] = {}
        self._usual: Tensor | None = None  # squared norms of the tensors in the last applied step
        self._suspects: list[str] = []
        self._states = {b.index: BucketState(b, settings, whole=self._deferred) for b in buckets}

    def set_learning_rate(self, value: float) -> None:
        """The learning rate of the steps that follow."""
        self._learning_rate = value

    def set_norm_limit(self, value: float) -> None:
        """A step whose norm is larger, or no number, changes nothing."""
        self._norm_limit = value

    def suspects(self) -> list[str]:
        """After a step that changed nothing: tensors, the largest first, of buckets in which this
        rank's own gradients, before any exchange, were no numbers or far above the last sums."""
        return self._suspects

    def _suspicious(self, squares: Tensor) -> list[str]:
        found = []
        for bucket in self._buckets.values():
            slots = [item.slot for item in bucket.placed]
            usual = math.inf
            if self._usual is not None:
                usual = sum(float(self._usual[place]) for place in {s.norm_index for s in slots})
            value = self._own_square(bucket)
            if not (math.isfinite(value) and value <= FAR_ABOVE * usual):
                found += slots
        order = sorted(found, key=lambda slot: -rank_of(float(squares[slot.norm_index])))
        return [slot.name for slot in order]

    def _own_square(self, bucket: FlatBucket) -> float:
        """Of this rank's own gradients: what an exchange overwrote, and what is still there."""
        overwritten = self._own.get(bucket.index)
        if overwritten is None:
            return float(sum_of_squares(bucket.sums))
        total = float(overwritten)
        if _leaves_others(bucket):
            low, high = bucket.shard
            for rest in (bucket.gradients[:low], bucket.gradients[high:]):
                total += float(sum_of_squares(rest))
        return total

    def checksums(self) -> dict[str, int]:
        """Of each bucket's parameters, which replicas hold alike; sees every flipped bit."""
        return {_common(b): _sum_of_words(b.kept) for b in self._buckets.values()}

    def _remember(self, bucket: FlatBucket) -> None:
        """Take down what the exchange is about to overwrite of this rank's own gradients."""
        lost = bucket.gradients
        if _leaves_others(bucket):
            lost = lost[slice(*bucket.shard)]
        first, *more = torch.split(lost, MOST_IN_A_DOT)
        square = sum((torch.dot(part, part) for part in more), torch.dot(first, first))
        known = self._own.get(bucket.index)
        self._own[bucket.index] = square if known is None else known + square

    def parameters(self) -> Iterator[Tensor]:
        """The flat weights that this rank keeps of each bucket, as they are now."""
        return (bucket.kept for bucket in self._buckets.values())

    def gradients(self) -> Iterator[Tensor]:
        """The summed gradients that this rank keeps of each bucket, as they are now."""
        return (bucket.sums for bucket in self._buckets.values())

    @property
    def resident_bytes(self) -> dict[str, int]:
        """Memory of weights, gradients and optimiser states now."""
        pairs = [bucket.resident_bytes for bucket in self._buckets.values()]
        return {
            "weights": sum(weights for weights, _ in pairs),
            "gradients": sum(gradients for _, gradients in pairs),
            "states": sum(state.nbytes for state in self._states.values()),
        }

    def gather(self, bucket: int, comm: Communicator) -> None:
        self._wire.gather_weights(self._buckets[bucket], comm)

    def reduce(self, bucket: int, comm: Communicator) -> None:
        flat = self._buckets[bucket]
        self._remember(flat)
        if flat.shards.gradients == 1:
            self.across(bucket, comm)
        else:
            self._wire.reduce_gradients(flat, comm)

    def across(self, bucket: int, comm: Communicator) -> None:
        flat = self._buckets[bucket]
        self._wire.sum_across(flat, comm)
        self._squares[bucket] = self._squares_of(flat)

    def refresh(self, bucket: int, comm: Communicator, *, part: bool) -> None:
        flat = self._buckets[bucket]
        if not self._deferred:
            interval = flat.sums_interval if part else flat.kept_interval
            collectives.all_gather(comm, flat.parameters_in(*interval))
            return
        pending = self._pending.pop(bucket, None)
        collectives.all_gather(comm, flat.gradients)
        if pending is not None:
            self._states[bucket].update(*pending)
        flat.zero()

    def open(self, buckets: Sequence[int]) -> None:
        for bucket in buckets:
            self._buckets[bucket].open_gradients()

    def free(self, buckets: Sequence[int]) -> None:
        for bucket in buckets:
            self._buckets[bucket].close_weights()

    def sum_tied(self, bucket: int, comm: Communicator) -> None:
        flat = self._buckets[bucket]
        for item in flat.tied:
            gradient = flat.gradients[item.start : item.stop]
            if self._whole_ties:
                sum_whole(comm, gradient, item.slot, first=flat.place == 0)
            else:
                collectives.all_reduce(comm, gradient)

    def add_squares(self, squares: Tensor) -> None:
        if self._shared is not None:
            self._shared.sum(self._buckets.values())
        for index, bucket in self._buckets.items():
            early = self._squares.pop(index, None)
            if early is None:  # nobody to exchange it with, or done for each micro-batch
                early = self._squares_of(bucket)
            for place, square in (*early, *self._squares_of(bucket, shared=True)):
                squares[place] += square

    @staticmethod
    def _squares_of(bucket: FlatBucket, *, shared: bool = False) -> list[tuple[int, Tensor]]:
        """(place in the norm vector, sum of squares) of this rank's part of each tensor.

        Those that tensor ranks share are apart: their gradients are complete later.
        """
        found: list[tuple[int, Tensor]] = []
        for item in bucket.placed if bucket.counts else ():
            low, high = item.overlap(*bucket.shard)
            if item.slot.counted and item.slot.shared is shared and low < high:
                found.append((item.slot.norm_index, sum_of_squares(bucket.gradients_in(low, high))))
        return found

    def step(self, squares: Tensor) -> Outcome:
        scale = self.scale.value
        norm = global_norm(squares) / scale
        applied = math.isfinite(norm) and norm <= self._norm_limit
        self._suspects = [] if applied else self._suspicious(squares)
        self._own.clear()
        if applied:
            self._usual = squares
        coefficient = clip_coefficient(norm, self._settings.clip) / scale
        for index, state in self._states.items():
            if self._deferred:
                if applied:
                    self._pending[index] = (coefficient, self._learning_rate)
                else:
                    self._buckets[index].zero()
                continue
            if applied:
                state.update(coefficient, self._learning_rate)
            self._buckets[index].zero()
        return Outcome(norm, applied, self.scale.after(finite=math.isfinite(norm)))

    def named_shards(self) -> dict[str, Shard]:
        """What this rank contributes to a checkpoint: parameters, both moments, the step count.

        Names: ``parameters/<name>``, ``exp_avg/<name>``, ``exp_avg_sq/<name>`` and
        ``optimizer/step``. Over all ranks the intervals of a name cover it exactly once
        (the step count is held by every rank, as is the scale of the loss in fp16). Bring
        parameters up to date first.

        Raises:
            HolmesError: when an update is still pending.
        """
        if self._pending:
            raise HolmesError("parameters are not up to date; call gather_parameters() first")
        found: dict[str, Shard] = {}
        if self.scale.dynamic:
            found[SCALE_NAME] = Shard(self.scale.state(), (2,), 0, 2)
        for index, bucket in self._buckets.items():
            state = self._states[index]
            found[STEP_NAME] = Shard(torch.tensor([state.count]), (1,), 0, 1)
            for item in bucket.placed:
                low, high = item.overlap(*bucket.shard)
                high = min(high, item.start + item.slot.elements)
                if not (bucket.counts and item.slot.counted) or low >= high:
                    continue
                values = {
                    "parameters": bucket.parameters_in(low, high),
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

        What a rank keeps of the parameters is complete afterwards; nothing needs refreshing.
        """
        count = float(read(STEP_NAME).item())
        self._pending.clear()
        if self.scale.dynamic:
            self.scale.load(read(SCALE_NAME))
        for index, bucket in self._buckets.items():
            state = self._states[index]
            state.set_count(count)
            bucket.zero()
            for item in bucket.placed:
                slot = item.slot
                low, high = item.overlap(*bucket.kept_interval)
                values = slot.take(read(f"parameters/{slot.name}")).reshape(-1)
                kept = bucket.parameters_in(low, high) if low < high else values[:0]
                kept.copy_(values[low - item.start : high - item.start])
                for kind in STATES:
                    state.load(kind, item, slot.take(read(f"{kind}/{slot.name}")))
