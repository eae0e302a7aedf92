"""Attention over a whole sample on one rank, slow and obvious: what every algorithm equals."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def full_attention(
    q_BHSK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None = None,
    window: int | None = None,
    documents: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(K)) v; a query that may read no key gives zeros.

    Args:
        key_mask: [B, S], true where a token is not padding.
        window: the most tokens that a causal query reads, itself included; None: all before it.
        documents: [B, S], the number of each token's, which alone it reads; None: not kept apart.
    """
    repeats = q_BHSK.shape[1] // k_BGSK.shape[1]
    k_BHSK = k_BGSK.repeat_interleave(repeats, dim=1)
    v_BHSK = v_BGSK.repeat_interleave(repeats, dim=1)
    scores = q_BHSK @ k_BHSK.mT / math.sqrt(q_BHSK.shape[3])
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    if causal:
        hidden |= torch.ones_like(hidden[0, 0]).triu(1)
    if causal and window is not None:
        hidden |= torch.ones_like(hidden[0, 0]).tril(-window)
    if key_mask is not None:
        hidden |= ~key_mask[:, None, None, :]
    if documents is not None:
        hidden |= documents[:, None, :, None] != documents[:, None, None, :]
    lost = hidden.all(-1, keepdim=True)
    weights = scores.masked_fill(hidden & ~lost, -math.inf).softmax(-1)
    return weights.masked_fill(lost, 0.0) @ v_BHSK
