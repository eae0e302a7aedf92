"""What a plan's search offers besides the plan, as rich tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holmes.report import units


def show_offers(extra: Mapping[str, Any], *, top: int | None) -> None:
    """Print the candidates that were asked for, the comparison, and what the runtime lacks.

    Args:
        extra: the keys that `holmes plan --json` adds to the plan.
        top: how many candidates to list; None lists none.
    """
    console = Console()
    if top is not None:
        console.print(offers_table(extra["top"], "Best candidates"))
        console.print(offers_table(extra["pareto"], "Pareto front of time and memory"))
    if "comparison" in extra:
        console.print(Text(extra["comparison"]["sentence"]))
    if extra.get("cost_per_million_tokens") is not None:
        console.print(Text(f"cost: {extra['cost_per_million_tokens']:.4g} per million tokens"))
    for path in extra.get("written", ()):
        console.print(Text(f"wrote {path}"))
    for line in extra["missing"]:
        console.print(Text(f"missing in the runtime for a faster plan: {line}"))


def offers_table(offers: Sequence[Mapping[str, Any]], title: str) -> Table:
    """One line a candidate: layout, choice, step, memory, and what it loses."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", width=100)
    for name in ("layout", "choice", "step", "memory", "loses"):
        table.add_column(name, overflow="fold")
    for offer in offers:
        degrees = [f"{axis} {n}" for axis, n in offer["layout"].items() if n > 1]
        table.add_row(
            " x ".join(degrees) or "one device",
            choice_text(offer),
            units.seconds(offer["step_seconds"]),
            units.bytes_(offer["memory_bytes"]),
            Text(offer["reason"]),
        )
    return table


def choice_text(offer: Mapping[str, Any]) -> str:
    """Micro-batch, schedule and what is not the default."""
    virtual = f" x {offer['virtual_stages']}" if offer["virtual_stages"] > 1 else ""
    words = [f"micro {offer['micro_batch']}", f"{offer['schedule']}{virtual}"]
    if offer["recompute"] != "none":
        words.append(f"recompute {offer['recompute']}")
    if offer["sequence_parallel"]:
        words.append("sequence parallel")
    if offer["sharding"] != "optimizer":
        words.append(f"sharding {offer['sharding']}")
    return ", ".join(words)
