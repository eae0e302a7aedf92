"""Apply a declared split to the blocks of a stage.

Every rank builds the same full block and keeps its part of it, one block at a time; the
sub-modules around which tensor ranks communicate are wrapped. Model code is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.tensor import TensorSplit
from holmes.runtime.tensor.axis import TensorAxis
from holmes.runtime.tensor.functions import gather_tokens, scatter_sum
from holmes.runtime.tensor.overlapped import ColumnGroup, ColumnLinear, sum_of_products
from holmes.runtime.tensor.piece import Piece, even_piece, padded_piece, refuse, whole_piece
from holmes.runtime.tensor.vocabulary import SplitEmbedding

Pieces = dict[str, Piece]
"""By the name of the parameter in its block."""


class RowLinear(nn.Module):
    """A linear layer over this rank's inputs; returns its tokens of the sum, bias added once."""

    def __init__(self, linear: nn.Linear, axis: TensorAxis) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._axis = axis

    def forward(self, part_BSF: Tensor) -> Tensor:
        """[B, S, F/t] to [B, S/t, D]."""
        if self._axis.chunks > 1:
            mine = sum_of_products(part_BSF, self.weight, self._axis)
        else:
            mine = scatter_sum(functional.linear(part_BSF, self.weight), self._axis)
        return mine if self.bias is None else mine + self.bias.to(mine.dtype)


class TensorSplitter:
    """Splits blocks for one rank of a tensor group.

    Args:
        key_heads: heads of keys and values.
    """

    def __init__(self, split: TensorSplit, key_heads: int, axis: TensorAxis) -> None:
        self._split, self._key_heads, self._axis = split, key_heads, axis

    def build(
        self, build: Callable[[int, int], Sequence[nn.Module]], start: int, stop: int
    ) -> tuple[list[nn.Module], Pieces]:
        """This rank's part of blocks [start, stop), and the pieces by global name.

        Raises:
            ConfigError: a parameter does not divide.
        """
        blocks: list[nn.Module] = []
        pieces: Pieces = {}
        for index in range(start, stop):
            (block,) = build(index, index + 1)
            found = self.apply(block)
            blocks.append(block)
            pieces |= {f"blocks.{index}.{name}": piece for name, piece in found.items()}
        return blocks, pieces

    def apply(self, block: nn.Module) -> Pieces:
        """Split one block in place; the piece of each of its parameters."""
        pieces: Pieces = {}
        for name, parameter in list(block.named_parameters()):
            piece = self.piece(name, tuple(parameter.shape))
            pieces[name] = piece
            owner, _, leaf = name.rpartition(".")
            mine = piece.take(parameter.detach()).clone()
            setattr(block.get_submodule(owner), leaf, nn.Parameter(mine))
        self._communicate(block, pieces)
        return pieces

    def piece(self, name: str, shape: tuple[int, ...]) -> Piece:
        """This rank's piece of a parameter.

        Raises:
            ConfigError: it does not divide.
        """
        module, size, index = name.rpartition(".")[0], self._axis.size, self._axis.index
        dim = self._split.dim(name)
        if dim is None:
            return whole_piece(shape, index)
        if module in (self._split.table, self._split.head):
            return padded_piece(shape, index, size)
        parts = min(size, self._key_heads) if module in self._split.key_value else size
        try:
            return even_piece(shape, dim, index, size, parts)
        except ValueError as error:
            raise refuse(name, error, size) from None

    def _communicate(self, block: nn.Module, pieces: Pieces) -> None:
        """Put the collectives around the sub-modules of a block that need them."""
        split, axis = self._split, self._axis
        modules = dict(block.named_modules())
        for name in split.row:
            if name in modules:
                linear: Any = modules[name]
                block.set_submodule(name, RowLinear(linear, axis))
        if split.table in modules:
            table: Any = modules[split.table]
            piece = pieces[f"{split.table}.weight"]
            block.set_submodule(split.table, SplitEmbedding(table.weight, piece, axis))
        for name in split.whole_tokens:
            if name in modules and axis.chunks > 1:
                self._overlap(block, name)
            elif name in modules:
                modules[name].register_forward_pre_hook(self._gather)
        for name in split.by_token:
            if name in modules:
                modules[name].register_forward_hook(self._own_rows)

    def _overlap(self, block: nn.Module, name: str) -> None:
        """Gather by chunks beside the products that read all tokens in a sub-module, or are it."""
        group = ColumnGroup(self._axis)
        for found, module in list(block.named_modules()):
            reads = found in self._split.column and found.startswith(f"{name}.")
            if isinstance(module, nn.Linear) and (reads or found == name):
                block.set_submodule(found, ColumnLinear(module, group))

    def _gather(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (gather_tokens(arguments[0], self._axis), *arguments[1:])

    def _own_rows(self, _: nn.Module, __: object, rows: Tensor) -> Tensor:
        """Of [S, D], or of [B, S, D] where positions differ from sample to sample."""
        return self._axis.own_tokens(rows, rows.dim() - 2)


def tie(blocks: Sequence[nn.Module], start: int, tied: Sequence[tuple[str, str]]) -> None:
    """Make one parameter of the two names of a shared weight that this stage holds both of."""
    stop = start + len(blocks)
    for names in tied:
        places = [(int(index), local) for _, index, local in (n.split(".", 2) for n in names)]
        if not all(start <= index < stop for index, _ in places):
            continue
        (first, name), (second, twin) = places
        shared = blocks[first - start].get_parameter(name)
        owner, _, leaf = twin.rpartition(".")
        setattr(blocks[second - start].get_submodule(owner), leaf, shared)
