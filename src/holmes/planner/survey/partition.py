"""The least bottleneck of a pipeline of equal blocks, for many layouts at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROUNDS = 5
"""Halvings of an interval as wide as the largest block, until it holds at most one step of
each stage (blocks up to 32 times as slow as others)."""
WIDE_ROUNDS = 26
"""The same of an interval as wide as the chain, where ``most`` binds."""


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
    # Below the even share of blocks that may be cut anywhere nothing holds them all; one
    # block more for each stage is enough.
    share = (layers + (fixed / each).sum(axis=-1)) / (1.0 / each).sum(axis=-1)
    low = np.maximum(share, np.max(fixed + floor * each, axis=-1))
    high = low + each.max(axis=-1)
    rounds, ones = ROUNDS, np.ones(each.shape[-1])
    if (blocks_within(high, each, fixed, floor, most) @ ones < layers).any():
        high, rounds = np.maximum(high, np.max(fixed + each * layers, axis=-1)), WIDE_ROUNDS
    for _ in range(rounds):
        middle = (low + high) / 2
        enough = blocks_within(middle, each, fixed, floor, most) @ ones >= layers
        high = np.where(enough, middle, high)
        low = np.where(enough, low, middle)
    # What is left between the two are single steps of stages: take as many as are needed.
    below, above = (blocks_within(end, each, fixed, floor, most) for end in (low, high))
    steps = np.sort(np.where(above > below, fixed + above * each, np.inf), axis=-1)
    lacking = layers - below.sum(axis=-1)
    last = np.clip(lacking - 1, 0, each.shape[-1] - 1).astype(np.int64)
    found: Floats = np.take_along_axis(steps, last[..., None], axis=-1)[..., 0]
    found = np.where(lacking <= 0, low, np.minimum(found, high))
    return found


def blocks_within(
    seconds: Floats, each: Floats, fixed: Floats, floor: Floats, most: Floats
) -> Floats:
    """The most blocks of every stage that take no longer than ``seconds``."""
    wanted = np.floor((seconds[..., None] - fixed) / each + 1e-9)
    found: Floats = np.maximum(np.minimum(wanted, most), floor)
    return found
