"""Figures of a record as text: times, ratios with their quartiles, rates, bytes."""

from __future__ import annotations

from collections.abc import Mapping

from rendered import Data


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


def seconds(value: Data) -> str:
    return f"{ms(value['median'])} ({value['q1'] * 1e3:.0f} to {value['q3'] * 1e3:.0f})"


def ratio(value: Data) -> str:
    return f"{value['median']:.2f}"


def quartiles(value: Data) -> str:
    return f"{value['median']:.3f} ({value['q1']:.3f} to {value['q3']:.3f}, {value['pairs']} pairs)"


def rates(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {rate:.2f}" for kind, rate in rates.items()) + " Gbit/s"


def moved(value: Mapping[str, float] | None) -> str:
    if not value or not value["measured"]:
        return "none"
    off = value["measured"] / value["predicted"] - 1 if value["predicted"] else 0.0
    return f"{value['measured'] / 1e6:.1f} MB (formula {off:+.1%})"


def itself(data: Data) -> str:
    """Ratios of the arms that ran against themselves."""
    return ", ".join(f"{name} {quartiles(value)}" for name, value in data["resolution"].items())


def drift(data: Data) -> str:
    return ", ".join(f"{probe} {value:+.0%}" for probe, value in data["drift"].items())
