"""Token table, and loss, split over the vocabulary (Shoeybi et al. 2019, section 3).

Every rank holds an equal range of token ids; the last ones may be padding, which no
target names and no softmax counts. Shape suffixes: B samples, S tokens, D hidden, W ids
of this rank, N tokens of all samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.chain import IGNORED
from holmes.runtime.tensor.axis import TensorAxis
from holmes.runtime.tensor.functions import scatter_sum
from holmes.runtime.tensor.piece import Piece


class SplitEmbedding(nn.Module):
    """A table of which this rank holds some rows; returns its tokens of the sum."""

    def __init__(self, weight: nn.Parameter, piece: Piece, axis: TensorAxis) -> None:
        super().__init__()
        self.weight = weight
        self._start, self._stop, self._axis = piece.start, piece.stop, axis

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """[B, S] to [B, S/t, D]."""
        elsewhere_BS = (tokens_BS < self._start) | (tokens_BS >= self._stop)
        rows_BS = (tokens_BS - self._start).masked_fill(elsewhere_BS, 0)
        found_BSD = functional.embedding(rows_BS, self.weight)
        return scatter_sum(found_BSD.masked_fill(elsewhere_BS[..., None], 0.0), self._axis)


class _CrossEntropy(torch.autograd.Function):
    """Sum over targets that count of log sum exp - logit of the target, over all targets;
    softmax less one-hot back."""

    @staticmethod
    def forward(
        ctx: Any, logits_NW: Tensor, targets_N: Tensor, start: int, axis: TensorAxis
    ) -> Tensor:
        width = logits_NW.shape[1]
        empty = logits_NW.new_full((logits_NW.shape[0],), -torch.inf)
        most_N = axis.all_reduce(logits_NW.amax(1) if width else empty, "max")
        shifted_NW = logits_NW - most_N[:, None]
        here_N = (targets_N >= start) & (targets_N < start + width)
        place_N = (targets_N - start).masked_fill(~here_N, 0)
        target_N = torch.zeros_like(most_N)
        if width:
            picked_N = shifted_NW.gather(1, place_N[:, None]).squeeze(1)
            target_N = picked_N.masked_fill(~here_N, 0.0)
        weights_NW = shifted_NW.exp_()
        sums_N = axis.all_reduce(weights_NW.sum(1))
        axis.all_reduce(target_N)
        weights_NW.div_(sums_N[:, None])
        counts_N = targets_N != IGNORED
        ctx.save_for_backward(weights_NW, place_N, here_N, counts_N)
        return (sums_N.log() - target_N).masked_fill(~counts_N, 0.0).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        weights_NW, place_N, here_N, counts_N = ctx.saved_tensors
        found_NW = weights_NW.clone()
        if found_NW.shape[1]:
            found_NW.scatter_add_(1, place_N[:, None], -here_N[:, None].to(found_NW.dtype))
        found_NW.masked_fill_(~counts_N[:, None], 0.0)
        return found_NW.mul_(gradients[0] / len(place_N)), None, None, None


def split_loss(logits_BSW: Tensor, targets_BS: Tensor, piece: Piece, axis: TensorAxis) -> Tensor:
    """As the plain loss of :mod:`holmes.models.common.chain`; the same on every rank.

    Args:
        logits_BSW: of this rank's range of the vocabulary, padding behind.
        piece: of the head's weight.
    """
    logits_NW = logits_BSW.flatten(0, 1)[:, : piece.stop - piece.start]
    if logits_NW.dtype in (torch.bfloat16, torch.float16):
        logits_NW = logits_NW.float()
    found: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits_NW, targets_BS.flatten(), piece.start, axis
    )
    return found
