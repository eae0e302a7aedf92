"""The checkpoints of a run as a table, and when to save as a sentence."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from holmes.report.units import seconds

LONG = ((86_400, "days"), (3_600, "h"), (120, "min"))


def duration(value: float) -> str:
    """``5.0 days``, ``2.5 h``, ``12 min``; shorter ones as elsewhere."""
    for size, name in LONG:
        if value >= size * (2 if name == "days" else 1):
            return f"{value / (60 if name == 'min' else size):.3g} {name}"
    return seconds(value)


def checkpoint_table(found: dict[str, Any]) -> Table:
    """One row a folder; the one that ``latest`` names is marked."""
    table = Table("step", "size", "layout", "state", "age", box=None)
    for row in found["checkpoints"]:
        layout = " ".join(f"{key} {value}" for key, value in row["layout"].items())
        mark = " (latest)" if row["name"] == found["latest"] else ""
        state = row["state"] + (f": {row['reason']}" if row["reason"] else "")
        table.add_row(
            f"{row['name']}{mark}",
            f"{row['bytes'] / 1e6:.1f} MB",
            layout or "-",
            state,
            duration(row["age_seconds"]),
        )
    return table


def suggestion_line(suggestion: dict[str, Any] | None) -> str:
    """When to save, from what a save costs and how often the job fails."""
    if suggestion is None:
        return "no good checkpoint to take the cost of a save from"
    steps = suggestion["steps"]
    every = f"train.checkpoint_every={steps}, " if steps else ""
    return (
        f"suggested: {every}a save each {duration(suggestion['seconds'])} "
        f"(a save stops training for {duration(suggestion['stall_seconds'])}; "
        f"a failure each {duration(suggestion['mtbf_seconds'])}, "
        f"{suggestion['mtbf_source']}; then {suggestion['lost']:.2%} of the time is lost)"
    )
