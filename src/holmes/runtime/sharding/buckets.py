"""Flat buckets: the parameters and gradients of a range of blocks as one vector each.

Layout of a bucket: the tensors that decay, then those that do not, then padding up to
a multiple of the data group's size. Parameters and their ``.grad`` become views into the
vectors, so reducing and gathering need no copy, and one AdamW call covers a whole shard.

Where weights are sharded, a rank keeps its part of the vector; the whole one has memory only
between a gather and the end of the computations that need it. The storage comes and goes
under the parameters, so what autograd has saved of them is right again after the next
gather. Whole gradients likewise live from a backward to their reduction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holmes.errors import ConfigError
from holmes.runtime.tensor.piece import Piece
from holmes.schedule.instruction import Bucket
from holmes.schedule.sharding import Shards
from holmes.workload.workload import Workload


@dataclass(frozen=True)
class Slot:
    """One parameter tensor of a stage.

    Attributes:
        name: canonical global name; the twin of a tied weight carries the first's name.
        norm_index: its place in the vector of squared norms (all tensors in model order).
        decays: whether weight decay applies.
        tied: its gradient is summed with its twin on another stage.
        counted: whether this copy counts in the norm and is saved; false for the twin,
            and for what an earlier tensor rank holds too.
        piece: the part of the whole parameter that this tensor rank holds; None: all.
    """

    name: str
    parameter: nn.Parameter
    block: int
    norm_index: int
    decays: bool
    tied: bool = False
    counted: bool = True
    piece: Piece | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole parameter."""
        return tuple(self.parameter.shape) if self.piece is None else self.piece.shape

    @property
    def elements(self) -> int:
        """Elements held that are part of the model: padding, which stands last, is not."""
        return self.parameter.numel() if self.piece is None else self.piece.elements

    @property
    def shared(self) -> bool:
        """Whether other tensor ranks hold the same, so that its gradient is a sum."""
        return self.piece is not None and self.piece.shared

    def take(self, whole: Tensor) -> Tensor:
        """What this rank holds of the whole tensor, in the parameter's shape."""
        if self.piece is None:
            return whole.view(self.parameter.shape)
        return self.piece.take(whole)


@dataclass(frozen=True)
class Placed:
    """A slot and its interval of the bucket's vectors."""

    slot: Slot
    start: int
    stop: int

    def overlap(self, start: int, stop: int) -> tuple[int, int]:
        """The part of this tensor inside [start, stop), in bucket offsets; empty if none."""
        low, high = max(start, self.start), min(stop, self.stop)
        return (low, max(low, high))


class FlatBucket:
    """Parameters and gradients of a bucket; gradients are there once it is settled.

    Args:
        placed: its tensors in order; they are moved into the bucket.
        shards: what is divided over how many ranks.
        place: this rank's place among the replicas.
        device: of the vectors; that of the parameters if left out.

    Attributes:
        shard: the half-open interval that this rank updates.
        decayed: length of the part that weight decay applies to.
        whole: all weights, [length]; without memory while they are sharded and not gathered.
        kept: the weights that this rank keeps, those of ``kept_interval``.
        gradients: all gradients of this rank, without memory while none are computed.
        sums: gradients summed so far, those of ``sums_interval``; where gradients are not
            sharded, ``gradients`` itself.
        counts: whether its shard counts in the norm and is saved; replicas hold the same.
    """

    @torch.no_grad()
    def __init__(
        self,
        index: int,
        placed: tuple[Placed, ...],
        shards: Shards,
        place: int,
        device: torch.device | str | None = None,
    ) -> None:
        self.index, self.placed, self.shards, self.place = index, placed, shards, place
        self.decayed = max((item.stop for item in placed if item.slot.decays), default=0)
        self.counts = shards.counts(place)
        length = -(-(placed[-1].stop if placed else 0) // shards.members) * shards.members
        self.length = length
        self.shard = shards.states_of(place, length)
        self.kept_interval = shards.weights_of(place, length)
        self.sums_interval = shards.gradients_of(place, length)
        like = placed[0].slot.parameter if placed else torch.empty(0)
        self.whole = torch.zeros(length, dtype=like.dtype, device=device or like.device)
        self.gradients = torch.empty_like(self.whole)
        self._bytes = self.whole.untyped_storage().nbytes()
        for item in placed:
            parameter = item.slot.parameter
            view = self.whole[item.start : item.stop].view(parameter.shape)
            if parameter.is_meta:
                fresh = nn.Parameter(view, requires_grad=parameter.requires_grad)
                torch.utils.swap_tensors(parameter, fresh)  # type: ignore[no-untyped-call]
            else:
                view.copy_(parameter)
                parameter.data = view
            parameter.grad = self.gradients[item.start : item.stop].view(parameter.shape)
        self.kept, self.sums = self.whole, self.gradients
        # Without memory until the weights are read, which takes memory of its own.
        self.gradients.untyped_storage().resize_(0)

    @torch.no_grad()
    def settle(self) -> None:
        """All weights have values: keep this rank's part of them, and make room for gradients."""
        if self.shards.weights > 1:
            self.kept = self.whole[slice(*self.kept_interval)].clone()
            self.close_weights()
        if self.shards.gradients > 1:
            low, high = self.sums_interval
            self.sums = torch.zeros(high - low, dtype=self.whole.dtype, device=self.whole.device)
        else:
            self.open_gradients()

    @property
    def tied(self) -> tuple[Placed, ...]:
        return tuple(placed for placed in self.placed if placed.slot.tied)

    def parameters_in(self, start: int, stop: int) -> Tensor:
        """A view of weights that this rank keeps, by bucket offsets."""
        low = self.kept_interval[0]
        return self.kept[start - low : stop - low]

    def gradients_in(self, start: int, stop: int) -> Tensor:
        """A view of summed gradients that this rank keeps, by bucket offsets."""
        low = self.sums_interval[0]
        return self.sums[start - low : stop - low]

    def open_weights(self) -> Tensor:
        """Give the whole weights memory, to be filled by a gather."""
        self.whole.untyped_storage().resize_(self._bytes)
        return self.whole

    def close_weights(self) -> None:
        """Take the memory of the whole weights, where they are sharded."""
        if self.shards.weights > 1:
            self.whole.untyped_storage().resize_(0)

    def open_gradients(self) -> None:
        """Give whole gradients memory and zeros, where they have none."""
        storage = self.gradients.untyped_storage()
        if storage.nbytes() < self._bytes:
            storage.resize_(self._bytes)
            self.gradients.zero_()

    def close_gradients(self) -> None:
        """Take the memory of whole gradients, where gradients are sharded."""
        if self.shards.gradients > 1:
            self.gradients.untyped_storage().resize_(0)

    def zero(self) -> None:
        """Begin the sum of the next step."""
        self.sums.zero_()
        self.close_gradients()

    @property
    def resident_bytes(self) -> tuple[int, int]:
        """Memory of weights and of gradients now."""
        weights = {t.untyped_storage().data_ptr(): t for t in (self.whole, self.kept)}
        gradients = {t.untyped_storage().data_ptr(): t for t in (self.gradients, self.sums)}
        return tuple(  # type: ignore[return-value]
            sum(t.untyped_storage().nbytes() for t in found.values())
            for found in (weights, gradients)
        )


def slots_of(
    blocks: Sequence[nn.Module],
    start: int,
    workload: Workload,
    decays: Callable[[Sequence[int]], bool],
    tied: Sequence[tuple[str, str]] = (),
    pieces: Mapping[str, Piece] | None = None,
) -> list[Slot]:
    """The parameters of a stage in model order, each once.

    Args:
        blocks: the stage's blocks, the first of which is block ``start`` of the model.
        decays: from the shape of a tensor, whether weight decay applies.
        tied: pairs of names of one shared weight, the canonical name first.
        pieces: by global name, what this tensor rank holds.

    Raises:
        ConfigError: when the model does not have the tensors that the Workload counts.
    """
    canonical = {twin: first for first, twin in tied}
    names = {name for pair in tied for name in pair}
    seen: set[int] = set()
    slots: list[Slot] = []
    for offset, block in enumerate(blocks):
        index = start + offset
        named = list(block.named_parameters())
        if len(named) != workload.blocks[index].tensors:
            raise ConfigError(
                f"block {index} has {len(named)} parameter tensors, "
                f"the plan counts {workload.blocks[index].tensors}",
                why="the plan was made for another model",
                next_step="plan again with `holmes plan`",
            )
        first = sum(other.tensors for other in workload.blocks[:index])
        for position, (local, parameter) in enumerate(named):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = f"blocks.{index}.{local}"
            piece = None if pieces is None else pieces[name]
            slots.append(
                Slot(
                    name=canonical.get(name, name),
                    parameter=parameter,
                    block=index,
                    norm_index=first + position,
                    decays=parameter.requires_grad and decays(parameter.shape),
                    tied=name in names,
                    counted=name not in canonical and (piece is None or piece.first),
                    piece=piece,
                )
            )
    return slots


def flatten(
    slots: Sequence[Slot],
    buckets: Sequence[Bucket],
    shards: Shards,
    place: int,
    device: torch.device | str | None = None,
) -> tuple[FlatBucket, ...]:
    """Move parameters into flat buckets; their ``.grad`` becomes a view as well, zero once settled.

    A weight that is shared inside the stage belongs to the bucket of its first block.

    Args:
        shards: what the data group divides.
        place: this rank's place in it.
        device: of the buckets; that of the parameters if left out. Parameters without
            storage become zeros.

    Raises:
        ConfigError: when a bucket's size is not what the plan says.
    """
    flat = []
    for bucket in buckets:
        low, high = bucket.blocks
        mine = [slot for slot in slots if low <= slot.block < high]
        elements = sum(math.prod(slot.shape) for slot in mine)
        if elements != bucket.elements:
            raise ConfigError(
                f"bucket {bucket.index} (blocks {low} to {high}) holds {elements} parameters, "
                f"the plan says {bucket.elements}",
                why="the plan was made for another model",
                next_step="plan again with `holmes plan`",
            )
        ordered = sorted(mine, key=lambda slot: not slot.decays)
        placed = tuple(_place(ordered))
        flat.append(FlatBucket(bucket.index, placed, shards, place, device))
    return tuple(flat)


def _place(slots: Sequence[Slot]) -> Iterator[Placed]:
    start = 0
    for slot in slots:
        stop = start + slot.parameter.numel()
        yield Placed(slot, start, stop)
        start = stop
