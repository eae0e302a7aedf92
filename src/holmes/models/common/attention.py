"""Attention cores and rotary angles, shared by decoder families.

A core maps queries [B, H, S, K] and keys and values [B, G, S, K] to [B, H, S, K], where
head h reads group h // (H / G). Any module of this signature may replace another.
Shape suffixes: B samples, S tokens, H heads, G heads of keys and values, K features.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class FusedAttention(nn.Module):
    """Causal softmax attention whose scores never reach memory, where the device can."""

    def forward(self, q_BHSK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor) -> Tensor:
        """A token sees itself and what came before."""
        grouped = q_BHSK.shape[1] != k_BGSK.shape[1]
        return functional.scaled_dot_product_attention(
            q_BHSK, k_BGSK, v_BGSK, is_causal=True, enable_gqa=grouped
        )


class UnfusedAttention(nn.Module):
    """The same, one operation after the other: scores, mask, softmax, mix of the values."""

    def forward(self, q_BHSK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor) -> Tensor:
        """A token sees itself and what came before."""
        groups = q_BHSK.shape[1] // k_BGSK.shape[1]
        k_BHSK = k_BGSK.repeat_interleave(groups, dim=1) if groups > 1 else k_BGSK
        v_BHSK = v_BGSK.repeat_interleave(groups, dim=1) if groups > 1 else v_BGSK
        scores_BHSS = q_BHSK @ k_BHSK.mT / math.sqrt(q_BHSK.shape[3])
        length = scores_BHSS.shape[-1]
        future_SS = torch.ones(length, length, dtype=torch.bool, device=q_BHSK.device).triu(1)
        weights_BHSS = scores_BHSS.masked_fill(future_SS, -math.inf).softmax(-1)
        return weights_BHSS.to(v_BHSK.dtype) @ v_BHSK


def attention_core(kind: Literal["fused", "unfused"] | None) -> nn.Module:
    """The core that a configuration asks for; fused when it does not care."""
    return UnfusedAttention() if kind == "unfused" else FusedAttention()


def rotary_angles(sequence: int, head_size: int, base: float = 10000.0) -> Tensor:
    """Angles [S, K/2] in fp64: position times base^(-2i/K) (Su et al. 2021, equation 15)."""
    rates = base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    return torch.outer(torch.arange(sequence, dtype=torch.float64), rates)


def rotate(x_BHSK: Tensor, cos_SK: Tensor, sin_SK: Tensor) -> Tensor:
    """Turn the feature pairs (i, i + K/2) by the angle of each position."""
    length = x_BHSK.shape[2]
    first, second = x_BHSK.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BHSK * cos_SK[:length] + turned * sin_SK[:length]).to(x_BHSK.dtype)


class Rotary(nn.Module):
    """Tables of cosines and sines [S, K], filled once the model has memory."""

    cos: Tensor
    sin: Tensor

    def __init__(self, sequence: int, head_size: int, base: float = 10000.0) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("cos", torch.empty(sequence, head_size), persistent=False)
        self.register_buffer("sin", torch.empty(sequence, head_size), persistent=False)

    def forward(self, x_BHSK: Tensor) -> Tensor:
        """Queries or keys turned by their positions."""
        return rotate(x_BHSK, self.cos, self.sin)

    @torch.no_grad()
    def fill(self) -> None:
        """Write the tables."""
        length, head_size = self.cos.shape
        angles = rotary_angles(length, head_size, self.base).repeat(1, 2)
        self.cos.copy_(angles.cos())
        self.sin.copy_(angles.sin())
