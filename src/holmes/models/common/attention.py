"""Attention cores and rotary angles, shared by decoder families.

A core maps queries [B, H, S, K] and keys and values [B, G, S, K] to [B, H, S, K], where
head h reads group h // (H / G). Any module of this signature may replace another. With the
documents of packed samples, [B, S] numbers that never fall along S, a token reads its own
document alone.
Shape suffixes: B samples, S tokens, H heads, G heads of keys and values, K features.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.rotary import RotaryScaling, rotary_rates


class FusedAttention(nn.Module):
    """Causal softmax attention whose scores never reach memory, where the device can.

    Args:
        window: the most tokens that one reads, itself included; None: all before it.
    """

    def __init__(self, window: int | None = None) -> None:
        super().__init__()
        self.window = window

    def forward(
        self, q_BHSK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, documents_BS: Tensor | None = None
    ) -> Tensor:
        """A token sees itself and what came before."""
        length = q_BHSK.shape[2]
        plain = documents_BS is None and (self.window is None or self.window >= length)
        mask = None if plain else visible(length, q_BHSK.device, self.window, documents_BS)
        return functional.scaled_dot_product_attention(
            q_BHSK,
            k_BGSK,
            v_BGSK,
            attn_mask=mask,
            is_causal=plain,
            enable_gqa=q_BHSK.shape[1] != k_BGSK.shape[1],
        )


class UnfusedAttention(nn.Module):
    """The same, one operation after the other: scores, mask, softmax, mix of the values."""

    def __init__(self, window: int | None = None) -> None:
        super().__init__()
        self.window = window

    def forward(
        self, q_BHSK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, documents_BS: Tensor | None = None
    ) -> Tensor:
        """A token sees itself and what came before."""
        groups = q_BHSK.shape[1] // k_BGSK.shape[1]
        k_BHSK = k_BGSK.repeat_interleave(groups, dim=1) if groups > 1 else k_BGSK
        v_BHSK = v_BGSK.repeat_interleave(groups, dim=1) if groups > 1 else v_BGSK
        scores_BHSS = q_BHSK @ k_BHSK.mT / math.sqrt(q_BHSK.shape[3])
        seen = visible(scores_BHSS.shape[-1], q_BHSK.device, self.window, documents_BS)
        weights_BHSS = scores_BHSS.masked_fill(~seen, -math.inf).softmax(-1)
        return weights_BHSS.to(v_BHSK.dtype) @ v_BHSK


def visible(
    length: int, device: torch.device, window: int | None, documents_BS: Tensor | None
) -> Tensor:
    """True where a query (row) reads a key (column): [S, S], or [B, 1, S, S] with documents."""
    seen_SS = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if window is not None:
        seen_SS = seen_SS.triu(1 - window)
    if documents_BS is None:
        return seen_SS
    same_BSS = documents_BS[:, :, None] == documents_BS[:, None, :]
    return (same_BSS & seen_SS)[:, None]


def attention_core(
    kind: Literal["fused", "unfused"] | None, window: int | None = None
) -> nn.Module:
    """The core that a configuration asks for; fused when it does not care."""
    return UnfusedAttention(window) if kind == "unfused" else FusedAttention(window)


def rotary_angles(
    sequence: int, head_size: int, base: float = 10000.0, scaling: RotaryScaling | None = None
) -> Tensor:
    """Angles [S, K/2] in fp64: position times base^(-2i/K) (Su et al. 2021, equation 15)."""
    rates = torch.tensor(rotary_rates(head_size, base, scaling), dtype=torch.float64)
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

    def __init__(
        self,
        sequence: int,
        head_size: int,
        base: float = 10000.0,
        scaling: RotaryScaling | None = None,
    ) -> None:
        super().__init__()
        self.base, self.scaling = base, scaling
        self.register_buffer("cos", torch.empty(sequence, head_size), persistent=False)
        self.register_buffer("sin", torch.empty(sequence, head_size), persistent=False)

    def forward(self, x_BHSK: Tensor) -> Tensor:
        """Queries or keys turned by their positions."""
        return rotate(x_BHSK, self.cos, self.sin)

    @torch.no_grad()
    def keep(self, positions_S: Tensor) -> None:
        """Keep the rows of these positions: token i of the input is at the i-th of them."""
        self.cos, self.sin = self.cos[positions_S], self.sin[positions_S]

    @torch.no_grad()
    def fill(self, device: torch.device | str) -> None:
        """Write the tables, on a device."""
        length, head_size = self.cos.shape
        self.cos = torch.empty_like(self.cos, device=device)
        self.sin = torch.empty_like(self.sin, device=device)
        angles = rotary_angles(length, head_size, self.base, self.scaling).repeat(1, 2)
        amplitude = 1.0 if self.scaling is None else self.scaling.amplitude
        self.cos.copy_(angles.cos() * amplitude)
        self.sin.copy_(angles.sin() * amplitude)
