"""Ring self-attention (Li et al. 2021, Sequence Parallelism, section 3.2).

One ring brings the keys of all ranks, so that a rank has the scores of its queries in
full, [S/N, S]; an ordinary softmax follows, then a ring of the values. Both together
send 2 (N-1) B G (S/N) K elements. The backward keeps the weights, passes keys and
values once more, and with them the sums of their gradients, where the paper all-reduces
these: half the bytes for the same sum.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from holmes.plan.chunks import Chunks
from holmes.runtime.context.axis import ContextAxis
from holmes.runtime.context.blocks import Rule, grouped, scores, widened
from holmes.runtime.context.ring import backward_ring


class RingSelfAttention(torch.autograd.Function):
    """Keeps queries, own keys and values, and the weights over the whole sample."""

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
        places = _places(chunks)
        row = widened(q).new_empty((*q.shape[:-1], places[-1]))
        for owner, k in axis.circulate(k_BGSK.contiguous(), chunks.held):
            row[..., places[owner] : places[owner + 1]] = scores(q, k, None)
        weights = _softmax(row, _hidden(chunks, axis.index, rule, q.device)).to(v_BGSK.dtype)
        mixed = torch.zeros_like(q, dtype=row.dtype)
        for owner, v in axis.circulate(v_BGSK.contiguous(), chunks.held):
            mine = weights[..., places[owner] : places[owner + 1]]
            mixed += widened(mine @ v.unsqueeze(2))
        mixed = mixed.to(q.dtype)
        ctx.save_for_backward(q_BHSK, torch.stack((k_BGSK, v_BGSK)), weights, mixed)
        ctx.axis, ctx.chunks = axis, chunks
        return mixed.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_BHSK, pair, weights, mixed = ctx.saved_tensors
        groups = pair.shape[2]
        q, d_out = grouped(q_BHSK, groups), grouped(gradients[0], groups)
        places = _places(ctx.chunks)
        delta = (widened(d_out) * widened(mixed)).sum(-1, keepdim=True)
        d_q = torch.zeros_like(q, dtype=delta.dtype)

        def read(k: Tensor, v: Tensor, owner: int) -> Tensor:
            mine = weights[..., places[owner] : places[owner + 1]]
            d_scores = (widened(d_out @ v.unsqueeze(2).mT) - delta) * mine
            d_scores = (d_scores / math.sqrt(q.shape[-1])).to(k.dtype)
            d_q.add_(widened(d_scores @ k.unsqueeze(2)))
            d_k = widened(d_scores.mT @ q).sum(2)
            return torch.stack((d_k, widened(mine.mT @ d_out).sum(2)))

        d_k, d_v = backward_ring(ctx.axis, pair, ctx.chunks, read)
        return d_q.flatten(1, 2).to(q.dtype), d_k, d_v, None, None, None


def _places(chunks: Chunks) -> list[int]:
    """Where the columns of each rank begin in a row of scores, and where they end."""
    places = [0]
    for held in chunks.held:
        places.append(places[-1] + held)
    return places


def _hidden(chunks: Chunks, rank: int, rule: Rule, device: torch.device) -> Tensor:
    """[B or 1, 1, 1, S, columns]: true where a query does not read; padding never is read."""
    columns = torch.tensor(
        [p for r in range(chunks.ranks) for p in chunks.positions(r)], device=device
    )
    padding = torch.tensor(
        [i >= chunks.own[r] for r in range(chunks.ranks) for i in range(chunks.held[r])],
        device=device,
    )
    rows = torch.tensor(chunks.positions(rank), device=device)
    hidden = padding.expand(len(rows), -1)
    if rule.causal:
        hidden = hidden | rule.out_of_reach(rows, columns)
    # Rows of padding read nothing, so that they give zeros and no gradient.
    lost = torch.arange(len(rows), device=device) >= chunks.own[rank]
    hidden = (hidden | lost[:, None])[None, None, None]
    if rule.key_mask is not None:
        hidden = hidden | ~rule.key_mask[:, columns][:, None, None, None]
    if rule.documents is not None:
        hidden = hidden | rule.elsewhere(rule.documents[:, rows], rule.documents[:, columns])
    return hidden


def _softmax(row: Tensor, hidden: Tensor) -> Tensor:
    """Weights of a row, in place; zeros where all of it is hidden."""
    row.masked_fill_(hidden, -math.inf)
    most = row.amax(-1, keepdim=True)
    row.sub_(most.masked_fill_(most == -math.inf, 0.0)).exp_()
    total = row.sum(-1, keepdim=True)
    return row.div_(total.masked_fill_(total == 0, 1.0))
