"""All-to-all attention (Jacobs et al. 2023, DeepSpeed-Ulysses): tokens against heads.

Before attention every rank sends the others their heads of its tokens; then each has
H/N heads of the whole sample and attends on its own; a second exchange brings the
outputs back. Keys and values of fewer heads than ranks are sent to all ranks that read them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from holmes.errors import ConfigError
from holmes.plan.chunks import Chunks
from holmes.runtime.context.axis import ContextAxis
from holmes.workload.workload import exchange_obstacle

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From whole-sample queries, keys and values of some heads to their outputs."""


class _ToHeads(torch.autograd.Function):
    """[B, N, X, S, K] of own tokens to [B, X, L, K] of own heads; backward the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: ContextAxis, chunks: Chunks) -> Tensor:
        ctx.axis, ctx.chunks = axis, chunks
        return _to_heads(x, axis, chunks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _to_tokens(gradients[0], ctx.axis, ctx.chunks), None, None


class _ToTokens(torch.autograd.Function):
    """The other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: ContextAxis, chunks: Chunks) -> Tensor:
        ctx.axis, ctx.chunks = axis, chunks
        return _to_tokens(x, axis, chunks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _to_heads(gradients[0], ctx.axis, ctx.chunks), None, None


def exchange_attention(
    q_BHSK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    axis: ContextAxis,
    chunks: Chunks,
    attend: Attend,
) -> Tensor:
    """Attention of this rank's tokens [B, H, S, K], by heads.

    Raises:
        ConfigError: the heads do not divide over the ranks.
    """
    heads, keys, ranks = q_BHSK.shape[1], k_BGSK.shape[1], axis.size
    obstacle = exchange_obstacle(heads, keys, ranks)
    if obstacle is not None:
        raise ConfigError(
            obstacle,
            where="parallel.context_algorithm",
            next_step="use parallel.context_algorithm=ring, or fewer context ranks",
        )
    if keys < ranks:
        k_BGSK, v_BGSK = (x.repeat_interleave(ranks // keys, dim=1) for x in (k_BGSK, v_BGSK))
    parts = [torch.stack(x.chunk(ranks, 1), 1) for x in (q_BHSK, k_BGSK, v_BGSK)]
    sizes = [part.shape[2] for part in parts]
    whole: Tensor = _ToHeads.apply(torch.cat(parts, 2), axis, chunks)  # type: ignore[no-untyped-call]
    mixed = attend(*torch.split(whole, sizes, dim=1))
    back: Tensor = _ToTokens.apply(mixed, axis, chunks)  # type: ignore[no-untyped-call]
    return back.flatten(1, 2)


def _to_heads(x: Tensor, axis: ContextAxis, chunks: Chunks) -> Tensor:
    samples, _, heads, _, features = x.shape
    outgoing = [part.contiguous() for part in x.unbind(1)]
    incoming = [x.new_empty((samples, heads, held, features)) for held in chunks.held]
    axis.exchange(outgoing, incoming)
    return torch.cat(
        [part[:, :, :own] for part, own in zip(incoming, chunks.own, strict=True)], dim=2
    )


def _to_tokens(x: Tensor, axis: ContextAxis, chunks: Chunks) -> Tensor:
    samples, heads, _, features = x.shape
    outgoing = []
    for part, held in zip(torch.split(x, list(chunks.own), dim=2), chunks.held, strict=True):
        padded = x.new_zeros((samples, heads, held, features))
        padded[:, :, : part.shape[2]] = part
        outgoing.append(padded)
    incoming = [torch.empty_like(outgoing[axis.index]) for _ in chunks.held]
    axis.exchange(outgoing, incoming)
    return torch.stack(incoming, dim=1)
