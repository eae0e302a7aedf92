"""Products of a tensor rank with their collectives beside them, chunk by chunk.

A rank's S/t tokens are cut into chunks; chunk i of all ranks together is one piece of work.
Split by columns (Shoeybi et al. 2019, section 3): a chunk is multiplied while the next is
gathered; backward, the gradient of a chunk's input is summed while the next one's is
computed, and the last sums travel under the gradients of the weights. Split by rows: the
same the other way round. A row of a product is the row of the whole product, and sums are
taken in rank order, so chunks change the result by no more than the product's own rounding.

Shape suffixes: B samples, T tensor ranks, S/t tokens of a rank, W of them in a chunk, D
features of whole tokens, F of this rank's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from holmes.runtime.tensor.axis import TensorAxis, compute_type

PRODUCT, INPUT, WEIGHT = "product", "input_gradient", "weight_gradient"
"""What the computing thread does beside a collective, in the trace."""


class _Columns(torch.autograd.Function):
    """[B, S/t, D] to the outputs [B, S, F] of several products that read the same tokens."""

    @staticmethod
    def forward(
        ctx: Any, axis: TensorAxis, own_BSD: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        weights, biases = _halves(parameters)
        whole = _whole(axis, own_BSD, own_BSD.shape[-1])
        outputs = [_whole(axis, own_BSD, len(weight)) for weight in weights]
        for place, rows_TBWD in axis.arriving(own_BSD):
            with axis.log.timed(PRODUCT):
                whole[:, :, place] = rows_TBWD.transpose(0, 1)
                for output, weight, bias in zip(outputs, weights, biases, strict=True):
                    product = functional.linear(rows_TBWD, weight, bias)
                    output[:, :, place] = product.transpose(0, 1)
        ctx.axis, ctx.biased = axis, [bias is not None for bias in biases]
        ctx.save_for_backward(whole, *weights)
        return tuple(output.flatten(1, 2) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        axis: TensorAxis = ctx.axis
        whole, *weights = ctx.saved_tensors
        tokens = whole.shape[2]
        parts = [gradient.reshape(len(whole), axis.size, tokens, -1) for gradient in gradients]
        sums = []
        for place in axis.places(tokens):
            with axis.log.timed(INPUT):
                rows = _chunk(parts[-1], place) @ weights[-1]
                for part, weight in list(zip(parts, weights, strict=True))[-2::-1]:
                    rows += _chunk(part, place) @ weight
            sums.append(axis.begin_sum(rows))
        with axis.log.timed(WEIGHT):
            flat = [gradient.flatten(0, -2) for gradient in gradients]
            d_weights = [gradient.T @ whole.flatten(0, -2) for gradient in flat]
            d_biases = [g.sum(0) if b else None for g, b in zip(flat, ctx.biased, strict=True)]
        return None, axis.collect(sums), *d_weights, *d_biases


class _Rows(torch.autograd.Function):
    """[B, S, F] to this rank's tokens of the sum of products, [B, S/t, D]."""

    @staticmethod
    def forward(ctx: Any, axis: TensorAxis, part_BSF: Tensor, weight_DF: Tensor) -> Tensor:
        samples, length, features = part_BSF.shape
        part = part_BSF.reshape(samples, axis.size, length // axis.size, features)
        sums = []
        for place in axis.places(part.shape[2]):
            with axis.log.timed(PRODUCT):
                rows_TBWD = functional.linear(_chunk(part, place), weight_DF)
            sums.append(axis.begin_sum(rows_TBWD))
        ctx.axis = axis
        ctx.save_for_backward(part_BSF, weight_DF)
        return axis.collect(sums)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        axis: TensorAxis = ctx.axis
        part_BSF, weight_DF = ctx.saved_tensors
        own_BSD = gradients[0]
        whole = _whole(axis, own_BSD, own_BSD.shape[-1])
        d_part = _whole(axis, own_BSD, weight_DF.shape[1])
        for place, rows_TBWD in axis.arriving(own_BSD):
            with axis.log.timed(INPUT):
                whole[:, :, place] = rows_TBWD.transpose(0, 1)
                d_part[:, :, place] = (rows_TBWD @ weight_DF).transpose(0, 1)
        with axis.log.timed(WEIGHT):
            d_weight = whole.flatten(0, -2).T @ part_BSF.flatten(0, -2)
        return None, d_part.flatten(1, 2), d_weight


class ColumnGroup:
    """The column-split products that read one tensor, computed together at the first's call."""

    def __init__(self, axis: TensorAxis) -> None:
        self._axis = axis
        self._members: list[ColumnLinear] = []
        self._read: Tensor | None = None
        self._outputs: dict[ColumnLinear, Tensor] = {}

    def join(self, member: ColumnLinear) -> None:
        """Members join in the order in which the model calls them."""
        self._members.append(member)

    def output(self, member: ColumnLinear, own_BSD: Tensor) -> Tensor:
        """What a member makes of the gathered tokens, [B, S, F]."""
        if self._read is not own_BSD or member not in self._outputs:
            biases = [None if m.bias is None else compute_type(m.bias) for m in self._members]
            found: Sequence[Tensor] = _Columns.apply(  # type: ignore[no-untyped-call]
                self._axis,
                compute_type(own_BSD),
                *[compute_type(m.weight) for m in self._members],
                *biases,
            )
            self._outputs = dict(zip(self._members, found, strict=True))
            self._read = own_BSD
        output = self._outputs.pop(member)
        if not self._outputs:
            self._read = None
        return output


class ColumnLinear(nn.Module):
    """A linear layer over all tokens, of which it is given this rank's; its group gathers them."""

    def __init__(self, linear: nn.Linear, group: ColumnGroup) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._group = group
        group.join(self)

    def forward(self, own_BSD: Tensor) -> Tensor:
        """[B, S/t, D] to [B, S, F]."""
        return self._group.output(self, own_BSD)


def sum_of_products(part_BSF: Tensor, weight_DF: Tensor, axis: TensorAxis) -> Tensor:
    """This rank's tokens of the sum over the ranks of part x weight^T, [B, S/t, D]."""
    found: Tensor = _Rows.apply(  # type: ignore[no-untyped-call]
        axis, compute_type(part_BSF), compute_type(weight_DF)
    )
    return found


def _halves(parameters: Sequence[Tensor | None]) -> tuple[list[Tensor], Sequence[Tensor | None]]:
    half = len(parameters) // 2
    return [weight for weight in parameters[:half] if weight is not None], parameters[half:]


def _whole(axis: TensorAxis, own_BSD: Tensor, features: int) -> Tensor:
    """Room for all tokens, those of each rank apart: [B, T, S/t, features]."""
    samples, tokens, _ = own_BSD.shape
    return own_BSD.new_empty((samples, axis.size, tokens, features))


def _chunk(whole: Tensor, place: slice) -> Tensor:
    """A chunk of [B, T, S/t, X], by rank: [T, B, W, X]."""
    return whole[:, :, place].transpose(0, 1)
