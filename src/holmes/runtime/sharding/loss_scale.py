"""Loss scaling for fp16: gradients too small for it are lifted into its range.

The loss is multiplied by a power of two before the backward, and the update divides by it, both
exactly. A step whose gradients overflow is skipped and the scale halved; after a while without
one it is doubled (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2). The norm
that decides is the same on all ranks, and so is the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1.0
MOST = 2.0**24


class LossScale:
    """The scale of the step under way.

    Args:
        first: a power of two; 1 and ``dynamic`` false for types that need no scale.
        patience: steps without an overflow after which the scale is doubled.
    """

    def __init__(self, first: float = 1.0, patience: int = 2000, *, dynamic: bool = False) -> None:
        self.value = first
        self.dynamic = dynamic
        self._patience = patience
        self._calm = 0

    def after(self, *, finite: bool) -> bool:
        """Judge a step by its gradients; whether the scale was lowered because they overflowed.

        At the least scale an overflow is none of the scale's.
        """
        if not self.dynamic:
            return False
        if not finite:
            lowered = self.value > LEAST
            self.value, self._calm = max(LEAST, self.value / 2), 0
            return lowered
        self._calm += 1
        if self._calm >= self._patience:
            self.value, self._calm = min(MOST, self.value * 2), 0
        return False

    def state(self) -> Tensor:
        """[2], fp64: scale, and steps since it last changed."""
        return torch.tensor([self.value, float(self._calm)], dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        """Go on from :meth:`state`."""
        self.value, self._calm = float(state[0]), int(state[1])
