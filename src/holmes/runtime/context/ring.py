"""Ring attention with online softmax (Liu et al. 2023): scores never outlive a tile.

Keys and values go round together, N - 1 times, while the rank reads those it has: 2 (N-1)
B G (S/N) K elements sent. The backward passes them round again, and after them the sums
of their gradients, which start at the next rank and end at home: twice as much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from holmes.plan.chunks import Chunks
from holmes.runtime.context.axis import SUMS, ContextAxis, Passing
from holmes.runtime.context.blocks import Gradients, OnlineSoftmax, Rule, grouped, widened

Read = Callable[[Tensor, Tensor, int], Tensor]
"""From a rank's keys and values, this rank's part of their gradients, [2, B, G, S, K]."""


class RingAttention(torch.autograd.Function):
    """Keeps queries, own keys and values, output and log sum exp: S/N tokens of each."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHSK: Tensor,
        k_BGSK: Tensor,
        v_BGSK: Tensor,
        axis: ContextAxis,
        chunks: Chunks,
        rule: Rule,
    ) -> Tensor:
        q = grouped(q_BHSK, k_BGSK.shape[1])
        softmax = OnlineSoftmax(q, chunks, axis.index, rule)
        pair = torch.stack((k_BGSK, v_BGSK))
        for owner, (k, v) in axis.circulate(pair, chunks.held):
            softmax.read(k, v, owner)
        mixed, log_sum = softmax.result()
        ctx.save_for_backward(q_BHSK, pair, mixed, log_sum)
        ctx.axis, ctx.chunks, ctx.rule = axis, chunks, rule
        return mixed.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_BHSK, pair, mixed, log_sum = ctx.saved_tensors
        groups = pair.shape[2]
        q, d_out = grouped(q_BHSK, groups), grouped(gradients[0], groups)
        d_q = torch.zeros_like(q, dtype=log_sum.dtype)
        delta = (widened(d_out) * widened(mixed)).sum(-1, keepdim=True)
        local = Gradients(q, d_out, d_q, log_sum, delta, ctx.chunks, ctx.axis.index, ctx.rule)
        d_k, d_v = backward_ring(ctx.axis, pair, ctx.chunks, local.read)
        return d_q.flatten(1, 2).to(q.dtype), d_k, d_v, None, None, None


def backward_ring(
    axis: ContextAxis, pair: Tensor, chunks: Chunks, read: Read
) -> tuple[Tensor, Tensor]:
    """Gradients of this rank's keys and values, summed over all ranks.

    Args:
        pair: this rank's keys and values, [2, B, G, S, K].
        read: called for the keys and values of every rank.
    """
    own = torch.empty(0)
    passing: Passing | None = None
    sent = 0
    for owner, (k, v) in axis.circulate(pair, chunks.held):
        part = read(k, v, owner)
        if owner == axis.index:
            own = part
            continue
        if passing is not None:
            part += passing.wait()
        # The next rank holds these keys next, and adds its part; the last hop brings them home.
        moved = part.to(pair.dtype)
        passing = axis.pass_on(moved, chunks.held[owner - 1], SUMS)
        sent += moved.nbytes
    if passing is not None:
        own += passing.wait()
    axis.count("ring", sent)
    d_k, d_v = own.to(pair.dtype)
    return d_k, d_v
