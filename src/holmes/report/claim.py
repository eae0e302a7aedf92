"""When a speed-up may be called one."""

from __future__ import annotations

CLAIM = 1.10
"""Below this ratio no gain is claimed: busy cores are noisier than that."""


def claim(ratio: float) -> str:
    """``2.23× faster``, ``1.04×, no gain claimed`` or ``0.62×: slower``."""
    if ratio >= CLAIM:
        return f"{ratio:.2f}× faster"
    if ratio > 1 / CLAIM:
        return f"{ratio:.2f}×, no gain claimed"
    return f"{ratio:.2f}×: slower"
