"""How fast rotary angles turn, and how that is stretched for longer texts. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ScalingKind = Literal["linear", "llama3"]


@dataclass(frozen=True)
class RotaryScaling:
    """Slower angles, so that positions beyond those trained on look like nearer ones.

    Attributes:
        kind: ``linear`` slows every angle by ``factor`` (Chen et al. 2023); ``llama3`` those
            alone whose wave is long, with a ramp between (Grattafiori et al. 2024).
        factor: at least 1.
        low, high: ``llama3``: waves longer than original / low tokens are slowed whole,
            those shorter than original / high not at all.
        original: ``llama3``: tokens of a sample before the stretch.
    """

    kind: ScalingKind
    factor: float
    low: float = 1.0
    high: float = 4.0
    original: int = 8192


def rotary_rates(head_size: int, base: float, scaling: RotaryScaling | None = None) -> list[float]:
    """Radians per position of each of the K/2 feature pairs."""
    rates = [float(base ** (-i / head_size)) for i in range(0, head_size, 2)]
    if scaling is None:
        return rates
    if scaling.kind == "linear":
        return [rate / scaling.factor for rate in rates]
    return [_llama3(rate, scaling) for rate in rates]


def _llama3(rate: float, scaling: RotaryScaling) -> float:
    turns = scaling.original * rate / (2 * math.pi)  # within a sample of the original length
    share = (turns - scaling.low) / (scaling.high - scaling.low)
    kept = min(1.0, max(0.0, share))
    return kept * rate + (1 - kept) * rate / scaling.factor
