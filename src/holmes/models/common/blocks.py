"""The three kinds of blocks of a pre-norm decoder, made from a family's own parts.

A block maps its input and, for packed samples, the documents [B, S] of their tokens.
Shape suffixes: B samples, S tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Embedding(nn.Module):
    """Block 0: token ids [B, S] to the residual stream [B, S, D].

    Args:
        positions: rows of a learned table of positions; 0: none.
    """

    def __init__(self, vocabulary: int, hidden: int, positions: int = 0) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, hidden)
        self.position = nn.Embedding(positions, hidden) if positions else None

    def forward(self, tokens_BS: Tensor, documents_BS: Tensor | None = None) -> Tensor:
        x_BSD: Tensor = self.token(tokens_BS)
        if self.position is None:
            return x_BSD
        if documents_BS is not None:
            return x_BSD + self.position(positions_within(documents_BS))  # type: ignore[no-any-return]
        positions_S = torch.arange(tokens_BS.shape[1], device=tokens_BS.device)
        return x_BSD + self.position(positions_S)  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm block: x + attention(norm x), then x + mlp(norm x)."""

    def __init__(
        self, norm1: nn.Module, attention: nn.Module, norm2: nn.Module, mlp: nn.Module
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.attention = attention
        self.norm2 = norm2
        self.mlp = mlp

    def forward(self, x_BSD: Tensor, documents_BS: Tensor | None = None) -> Tensor:
        x_BSD = x_BSD + self.attention(self.norm1(x_BSD), documents_BS)
        return x_BSD + self.mlp(self.norm2(x_BSD))  # type: ignore[no-any-return]


class Head(nn.Module):
    """Last block: final norm and logits [B, S, V]."""

    def __init__(self, norm: nn.Module, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.norm = norm
        self.projection = nn.Linear(hidden, vocabulary, bias=False)

    def forward(self, x_BSD: Tensor, documents_BS: Tensor | None = None) -> Tensor:
        return self.projection(self.norm(x_BSD))  # type: ignore[no-any-return]


def positions_within(documents_BS: Tensor) -> Tensor:
    """Each token's place in its own document, [B, S], counted from the sample's start."""
    places_S = torch.arange(documents_BS.shape[1], device=documents_BS.device)
    begins_BS = torch.ones_like(documents_BS, dtype=torch.bool)
    begins_BS[:, 1:] = documents_BS[:, 1:] != documents_BS[:, :-1]
    first_BS = (places_S * begins_BS).cummax(dim=1).values
    return places_S - first_BS
