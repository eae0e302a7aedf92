"""Global gradient norm and clipping, in an arithmetic that does not depend on the layout.

One sum of squares per parameter tensor, in fp64; partial sums of shards are added over
the ranks; the tensors are added in model order. A run on one process that uses these
functions gets the same bits as a pipeline, and as data groups up to the order in which
the parts of one tensor are added.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PIECE = 1 << 16
"""Elements whose fp64 copy stays in a second-level cache."""
GPU_PIECE = 1 << 24
"""The same on a GPU, where every piece costs the start of some kernels."""
CLIP_EPSILON = 1e-6
"""As torch.nn.utils.clip_grad_norm_."""


def sum_of_squares(gradient: Tensor) -> Tensor:
    """Sum of squares of all elements, a fp64 scalar tensor; fp64 copies stay small."""
    total = torch.zeros((), dtype=torch.float64, device=gradient.device)
    size = GPU_PIECE if gradient.is_cuda else PIECE
    for piece in torch.split(gradient.reshape(-1), size):
        wide = piece.double()
        total += torch.dot(wide, wide)
    return total


def global_norm(squares: Tensor) -> float:
    """Norm of the whole gradient from the sums of squares in model order, added in that order."""
    total = 0.0
    for square in squares.tolist():
        total += square
    return math.sqrt(total) if total >= 0 else math.nan


def clip_coefficient(norm: float, limit: float | None) -> float:
    """What gradients are multiplied by: limit / (norm + 1e-6), at most 1."""
    if limit is None:
        return 1.0
    return min(1.0, limit / (norm + CLIP_EPSILON))
