"""Waiting for round trips through slow cuts, where forwards and backwards take turns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALL_UP_TO = 8
"""Runs of so many stages are all looked at, of longer ones only some: their time per
micro-batch changes little from one length to the next."""


def round_trips(whole: Floats, after: Floats, cuts: Floats, flight: Floats, most: Floats) -> Floats:
    """Seconds per micro-batch that round trips allow at best, [row].

    A forward goes down from stage s to stage t, whose next backward comes back up to s, which
    then goes on with a new forward: a cycle that n_s - n_t + 1 micro-batches share, n being
    those in flight on each stage. A slow cut is felt most by the two stages beside it.

    Args:
        whole: seconds of a micro-batch on each stage on the way, [row, stage].
        after: seconds between a stage's backward and its next forward, [row, stage].
        cuts: seconds of one crossing of each cut, [row, stage - 1].
        flight: micro-batches in flight on each stage, [row, stage].
        most: micro-batches of a step, [row]; a stage that holds all of them never waits.
    """
    count = whole.shape[1]
    passed, crossed = _summed(whole), _summed(cuts)
    waiting = flight < most[:, None]
    found: Floats = np.zeros(len(whole))
    for length in _lengths(count):
        first, last = slice(0, count - length + 1), slice(length - 1, count)
        trip = passed[:, length:] - passed[:, first] + after[:, first]
        trip += 2.0 * (crossed[:, last] - crossed[:, first])
        shared = flight[:, first] - flight[:, last] + 1.0
        stall = np.where(waiting[:, first], trip / shared, 0.0)
        found = np.maximum(found, stall.max(axis=1))
    return found


def _summed(values: Floats) -> Floats:
    return np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))


def _lengths(count: int) -> list[int]:
    found = list(range(2, min(count, ALL_UP_TO) + 1))
    while found and found[-1] * 3 // 2 < count:
        found.append(found[-1] * 3 // 2)
    return sorted({*found, count})
