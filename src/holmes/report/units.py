"""Numbers as people read them."""

from __future__ import annotations

import math

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def seconds(value: float | None) -> str:
    """``412 ms``, ``1.85 s``, ``2 min 5 s``."""
    if value is None or not math.isfinite(value):
        return "not known"
    if value == 0:
        return "0 s"
    if value >= 120:
        return f"{int(value // 60)} min {value % 60:.0f} s"
    if value >= 0.9995:
        return f"{_digits(value)} s"
    if value >= 0.0009995:
        return f"{_digits(value * 1e3)} ms"
    if value >= 0.9995e-6:
        return f"{_digits(value * 1e6)} µs"
    return f"{value * 1e9:.3g} ns"


def _digits(value: float) -> str:
    """Three digits, trailing zeros kept: 1.10, 24.0, 525."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}".rstrip(".")


def bytes_(value: float | None) -> str:
    """Decimal units: ``41.2 MB``."""
    if value is None or not math.isfinite(value):
        return "not known"
    return f"{_scaled(value)}B"


def count(value: float) -> str:
    """``1.3 G`` for large numbers, plain digits below a thousand."""
    return _scaled(value).rstrip()


def rate(gbit_s: float) -> str:
    """Gbit/s, or Mbit/s below 1: ``25 Gb/s``, ``200 Mb/s``."""
    return f"{gbit_s:g} Gb/s" if gbit_s >= 1 else f"{gbit_s * 1000:.4g} Mb/s"


def percent(fraction: float) -> str:
    """Signed: ``+1.7 %``; a true minus sign, a space that does not break, no sign at zero."""
    text = f"{abs(fraction) * 100:.1f}\N{NO-BREAK SPACE}%"
    if text.startswith("0.0\N{NO-BREAK SPACE}"):
        return text
    return ("+" if fraction > 0 else "\N{MINUS SIGN}") + text


def _scaled(value: float) -> str:
    for scale, letter in _SCALES:
        if abs(value) >= scale * 0.9995:
            return f"{_significant(value / scale)} {letter}"
    return f"{_significant(value)} "


def _significant(value: float) -> str:
    """Three significant digits, never an exponent."""
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.3g}"
