"""How often to save: the interval that loses least, from the cost of a save and the
rate of failures.

Young 1974, "A first order approximation to the optimum checkpoint interval":
sqrt(2 C M). Daly 2006, "A higher order estimate of the optimum checkpoint interval for
restart dumps", equation 37, is used here; C is what a save costs training, M the mean
time between failures of the whole job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DEVICE_MTBF_HOURS = 16_384 * 54 * 24 / 419
"""Of one device: 419 unexpected interruptions in 54 days on 16,384 GPUs (the Llama 3 Herd of
Models, 2024, section 3.3.4)."""


@dataclass(frozen=True)
class Suggestion:
    """Seconds between saves, the share of time then lost to saving and repeating, and what
    bounds the interval: ``failures``, or ``writing`` where a save must end before the next."""

    seconds: float
    lost: float
    bound: str


def young(cost: float, mtbf: float) -> float:
    """Young's interval, in seconds."""
    return math.sqrt(2 * cost * mtbf)


def daly(cost: float, mtbf: float) -> float:
    """Daly's interval, in seconds."""
    if cost >= 2 * mtbf:
        return mtbf
    ratio = cost / (2 * mtbf)
    return young(cost, mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost


def lost_share(interval: float, cost: float, mtbf: float) -> float:
    """Share of time lost, first order: the saves, and half an interval per failure."""
    return cost / (interval + cost) + (interval + cost) / (2 * mtbf)


def suggest(stall: float, write: float, mtbf: float) -> Suggestion:
    """The interval for a save that stops training for ``stall`` seconds and is on disk after
    ``write`` more; all in seconds."""
    wanted = daly(max(stall, 1e-6), mtbf)
    seconds = max(wanted, write)
    bound = "failures" if seconds == wanted else "writing"
    return Suggestion(seconds, lost_share(seconds, stall, mtbf), bound)
