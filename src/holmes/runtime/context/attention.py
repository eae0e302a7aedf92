"""Attention over a sequence that is spread over the ranks of a context group."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.attention import FusedAttention
from holmes.plan.chunks import Chunks
from holmes.plan.layout import ContextAlgorithm
from holmes.runtime.context.axis import ContextAxis, matching_type
from holmes.runtime.context.blocks import Rule
from holmes.runtime.context.reference import full_attention
from holmes.runtime.context.ring import RingAttention
from holmes.runtime.context.rsa import RingSelfAttention
from holmes.runtime.context.ulysses import Attend, exchange_attention


def context_attention(
    q_BHSK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    axis: ContextAxis,
    chunks: Chunks,
    algorithm: ContextAlgorithm,
    *,
    rule: Rule,
) -> Tensor:
    """softmax(q k^T / sqrt(K)) v of this rank's tokens over those of all ranks.

    A query that may read no key gives zeros. Every rank calls it.

    Args:
        q_BHSK, k_BGSK, v_BGSK: tokens of this rank as ``chunks`` deals them; head h reads
            group h // (H / G).
    """
    given = matching_type(q_BHSK, k_BGSK, v_BGSK)
    with torch.autocast(q_BHSK.device.type, enabled=False):
        if algorithm == "ulysses":
            return exchange_attention(*given, axis, chunks, _local(rule))
        function = RingAttention if algorithm == "ring" else RingSelfAttention
        found: Tensor = function.apply(*given, axis, chunks, rule)  # type: ignore[no-untyped-call]
        return found


def _local(rule: Rule) -> Attend:
    """Attention over whole samples on one rank."""
    if rule.key_mask is not None:
        return partial(
            full_attention,
            causal=rule.causal,
            key_mask=rule.key_mask,
            window=rule.window,
            documents=rule.documents,
        )
    if rule.causal:
        return partial(FusedAttention(rule.window), documents_BS=rule.documents)
    return partial(functional.scaled_dot_product_attention, enable_gqa=True)


class ContextCore(nn.Module):
    """A causal attention core whose tokens are spread over a context group.

    Args:
        window: the most tokens that one reads, itself included; None: all before it.
    """

    def __init__(
        self,
        axis: ContextAxis,
        chunks: Chunks,
        algorithm: ContextAlgorithm,
        window: int | None = None,
    ) -> None:
        super().__init__()
        self._axis, self._chunks, self._algorithm = axis, chunks, algorithm
        self._rule = Rule(causal=True, window=window)

    def forward(
        self, q_BHSK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, documents_BL: Tensor | None = None
    ) -> Tensor:
        """A token sees itself and what came before, on whatever rank, in its own document.

        Args:
            documents_BL: of all tokens of the samples.
        """
        return context_attention(
            q_BHSK,
            k_BGSK,
            v_BGSK,
            self._axis,
            self._chunks,
            self._algorithm,
            rule=replace(self._rule, documents=documents_BL),
        )
