"""Flat buckets: the parameters and gradients of a range of blocks as one vector each.

Layout of a bucket: the tensors that decay, then those that do not, then padding up to
a multiple of the data group's size. Parameters and their ``.grad`` become views into the
vectors, so reducing and gathering need no copy, and one AdamW call covers a whole shard.
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


@dataclass(frozen=True)
class FlatBucket:
    """Parameters and gradients of a bucket, each one contiguous vector.

    ``shard`` is the half-open interval that this rank updates, ``decayed`` the length of
    the part that weight decay applies to.
    """

    index: int
    parameters: Tensor
    gradients: Tensor
    placed: tuple[Placed, ...]
    decayed: int
    shard: tuple[int, int]

    @property
    def tied(self) -> tuple[Placed, ...]:
        return tuple(placed for placed in self.placed if placed.slot.tied)


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
                    decays=decays(parameter.shape),
                    tied=name in names,
                    counted=name not in canonical and (piece is None or piece.first),
                    piece=piece,
                )
            )
    return slots


def flatten(
    slots: Sequence[Slot],
    buckets: Sequence[Bucket],
    members: int,
    index: int,
    device: torch.device | str | None = None,
) -> tuple[FlatBucket, ...]:
    """Move parameters into flat buckets; their ``.grad`` becomes a zeroed view as well.

    A weight that is shared inside the stage belongs to the bucket of its first block.

    Args:
        members: size of the data group.
        index: this rank's place in it.
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
        flat.append(_flatten_one(bucket.index, mine, members, index, device))
    return tuple(flat)


@torch.no_grad()
def _flatten_one(
    number: int, slots: list[Slot], members: int, index: int, device: torch.device | str | None
) -> FlatBucket:
    ordered = sorted(slots, key=lambda slot: not slot.decays)
    placed = tuple(_place(ordered))
    length = placed[-1].stop if placed else 0
    chunk = -(-length // members)
    like = slots[0].parameter if slots else torch.empty(0)
    parameters = torch.zeros(chunk * members, dtype=like.dtype, device=device or like.device)
    gradients = torch.zeros_like(parameters)
    for item in placed:
        parameter = item.slot.parameter
        view = parameters[item.start : item.stop].view(parameter.shape)
        if parameter.is_meta:
            torch.utils.swap_tensors(parameter, nn.Parameter(view))  # type: ignore[no-untyped-call]
        else:
            view.copy_(parameter)
            parameter.data = view
        parameter.grad = gradients[item.start : item.stop].view(parameter.shape)
    decayed = max((item.stop for item in placed if item.slot.decays), default=0)
    shard = (index * chunk, (index + 1) * chunk)
    return FlatBucket(number, parameters, gradients, placed, decayed, shard)


def _place(slots: Sequence[Slot]) -> Iterator[Placed]:
    start = 0
    for slot in slots:
        stop = start + slot.parameter.numel()
        yield Placed(slot, start, stop)
        start = stop
