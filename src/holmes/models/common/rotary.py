"""How fast rotary angles turn, and how that is stretched for longer texts. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ScalingKind = Literal["linear", "llama3", "yarn"]


@dataclass(frozen=True)
class RotaryScaling:
    """Slower angles, so that positions beyond those trained on look like nearer ones.

    Attributes:
        kind: ``linear`` slows every angle by ``factor`` (Chen et al. 2023); ``llama3`` those
            alone whose wave is long, with a ramp over their turns between (Grattafiori et al.
            2024); ``yarn`` likewise, with a ramp over the feature pairs (Peng et al. 2023,
            section 3.2).
        factor: at least 1.
        low, high: ``llama3``, ``yarn``: waves longer than original / low tokens are slowed
            whole, those shorter than original / high not at all.
        original: ``llama3``, ``yarn``: tokens of a sample before the stretch.
        amplitude: ``yarn``: cosines and sines are multiplied by it, so scores by its square.
    """

    kind: ScalingKind
    factor: float
    low: float = 1.0
    high: float = 4.0
    original: int = 8192
    amplitude: float = 1.0


def rotary_rates(head_size: int, base: float, scaling: RotaryScaling | None = None) -> list[float]:
    """Radians per position of each of the K/2 feature pairs."""
    rates = [float(base ** (-i / head_size)) for i in range(0, head_size, 2)]
    if scaling is None:
        return rates
    if scaling.kind == "linear":
        return [rate / scaling.factor for rate in rates]
    if scaling.kind == "llama3":
        return [_llama3(rate, scaling) for rate in rates]
    return _yarn(rates, head_size, base, scaling)


def yarn_amplitude(factor: float) -> float:
    """What keeps the entropy of attention over a longer text (Peng et al. 2023, equation 22)."""
    return 0.1 * math.log(max(factor, 1.0)) + 1.0


def _llama3(rate: float, scaling: RotaryScaling) -> float:
    turns = scaling.original * rate / (2 * math.pi)  # within a sample of the original length
    share = (turns - scaling.low) / (scaling.high - scaling.low)
    kept = min(1.0, max(0.0, share))
    return kept * rate + (1 - kept) * rate / scaling.factor


def _yarn(rates: list[float], head_size: int, base: float, scaling: RotaryScaling) -> list[float]:
    def feature(turns: float) -> float:
        """The feature whose wave turns this often within a sample of the original length."""
        return head_size * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(base))

    first = max(math.floor(feature(scaling.high)), 0)
    last = min(math.ceil(feature(scaling.low)), head_size - 1)
    width = (last - first) or 0.001
    slowed = [min(1.0, max(0.0, (pair - first) / width)) for pair in range(len(rates))]
    return [
        rate * (1 - share) + rate / scaling.factor * share
        for rate, share in zip(rates, slowed, strict=True)
    ]
