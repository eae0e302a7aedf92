"""Conjugate collectives as autograd functions: what one does forward, its twin does backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from holmes.runtime.tensor.axis import TensorAxis, compute_type


class _GatherTokens(torch.autograd.Function):
    """Forward all-gather, backward reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, axis: TensorAxis) -> Tensor:
        ctx.axis = axis
        return axis.gather_tokens(part)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.axis.scatter_sum(gradients[0]), None


class _ScatterSum(torch.autograd.Function):
    """Forward reduce-scatter, backward all-gather."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, axis: TensorAxis) -> Tensor:
        ctx.axis = axis
        return axis.scatter_sum(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.axis.gather_tokens(gradients[0]), None


def gather_tokens(part: Tensor, axis: TensorAxis) -> Tensor:
    """[B, S/t, D] to [B, S, D], the input of products that are split by columns."""
    found: Tensor = _GatherTokens.apply(compute_type(part), axis)  # type: ignore[no-untyped-call]
    return found


def scatter_sum(whole: Tensor, axis: TensorAxis) -> Tensor:
    """Partial [B, S, D] of all ranks to this rank's tokens of the sum, [B, S/t, D]."""
    found: Tensor = _ScatterSum.apply(whole, axis)  # type: ignore[no-untyped-call]
    return found
