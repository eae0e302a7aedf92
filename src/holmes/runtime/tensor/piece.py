"""Piece: the part of a parameter that one tensor rank holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holmes.errors import ConfigError
from holmes.runtime.checkpoint.manifest import Box


@dataclass(frozen=True)
class Piece:
    """[start, stop) of one dim of a parameter, or all of it.

    Attributes:
        shape: of the whole parameter.
        dim: the dim that splits; None: every rank holds all.
        length: what is held of ``dim``, padding behind ``stop`` included.
        parts: different pieces there are over the tensor group.
        part: which of them this is.
        first: whether no rank before this one holds the same piece.
        shared: whether others hold it too, so that its gradient is a sum over ranks.
    """

    shape: tuple[int, ...]
    dim: int | None
    start: int
    stop: int
    length: int
    parts: int
    part: int
    first: bool
    shared: bool

    @property
    def elements(self) -> int:
        """Elements held, without padding, which stands last."""
        if self.dim is None:
            return math.prod(self.shape)
        return math.prod(self.shape) // self.shape[self.dim] * (self.stop - self.start)

    @property
    def box(self) -> Box | None:
        """The half-open interval of every dim; None: all of it."""
        if self.dim is None:
            return None
        whole = [(0, size) for size in self.shape]
        whole[self.dim] = (self.start, self.stop)
        return tuple(whole)

    def take(self, whole: Tensor) -> Tensor:
        """This piece of the whole tensor, zeros as padding."""
        whole = whole.view(self.shape)
        if self.dim is None:
            return whole
        part = whole.narrow(self.dim, self.start, self.stop - self.start)
        missing = self.length - (self.stop - self.start)
        if missing:
            part = torch.cat([part, whole.new_zeros((missing, *self.shape[1:]))])
        return part.contiguous()

    def put(self, whole: Tensor, flat: Tensor) -> None:
        """Write this piece, given flat, padding behind, to its place in the whole tensor."""
        if self.dim is None:
            whole.copy_(flat.view(self.shape))
            return
        target = whole.narrow(self.dim, self.start, self.stop - self.start)
        target.copy_(flat[: self.elements].view(target.shape))


def whole_piece(shape: tuple[int, ...], index: int) -> Piece:
    """What every rank holds all of."""
    return Piece(shape, None, 0, 0, 0, 1, 0, index == 0, True)


def even_piece(shape: tuple[int, ...], dim: int, index: int, size: int, parts: int) -> Piece:
    """One of ``parts`` equal pieces; with fewer parts than ranks, neighbours hold the same.

    Raises:
        ValueError: when the sizes do not divide.
    """
    if shape[dim] % parts or size % parts:
        raise ValueError(f"{shape[dim]} in dim {dim} do not divide into {parts} parts")
    length, copies = shape[dim] // parts, size // parts
    part = index // copies
    start = part * length
    return Piece(
        shape, dim, start, start + length, length, parts, part, index % copies == 0, copies > 1
    )


def padded_piece(shape: tuple[int, ...], index: int, size: int) -> Piece:
    """An equal number of rows for everybody, the last ones padding where need be."""
    length = -(-shape[0] // size)
    start = min(index * length, shape[0])
    stop = min(start + length, shape[0])
    return Piece(shape, 0, start, stop, length, size, index, True, False)


def refuse(name: str, error: ValueError, size: int) -> ConfigError:
    """What to say of a parameter that cannot be split."""
    return ConfigError(
        f"{name} cannot be split over {size} tensor ranks",
        where="parallel.tensor",
        why=str(error),
        next_step="choose a degree that divides heads, MLP width and sequence",
    )
