"""The least bottleneck of a pipeline of equal blocks, for many layouts at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROUNDS = 26
"""Halvings of the interval: to 1e-8 of its width."""


def least_bottleneck(
    each: Floats, fixed: Floats, floor: Floats, most: Floats, layers: int
) -> Floats:
    """The smallest T such that stages of at most T seconds hold all blocks.

    Args:
        each: seconds of one block, [..., stage].
        fixed: seconds of a stage without blocks, [..., stage].
        floor, most: least and most blocks of a stage.
        layers: blocks to hold.

    Returns:
        Seconds, [...]; meaningless where ``most`` cannot hold all blocks.
    """
    low = np.max(fixed + floor * each, axis=-1)
    high = np.maximum(low, np.max(fixed + each * layers, axis=-1))
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        enough = blocks_within(middle, each, fixed, floor, most).sum(axis=-1) >= layers
        high = np.where(enough, middle, high)
        low = np.where(enough, low, middle)
    found: Floats = high
    return found


def blocks_within(
    seconds: Floats, each: Floats, fixed: Floats, floor: Floats, most: Floats
) -> Floats:
    """The most blocks of every stage that take no longer than ``seconds``."""
    wanted = np.floor((seconds[..., None] - fixed) / each + 1e-9)
    found: Floats = np.clip(wanted, floor, np.maximum(most, floor))
    return found
