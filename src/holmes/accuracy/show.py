"""A validation as tables in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

WORST = 8
"""Rows shown, those with the largest errors."""


def show_validation(result: dict[str, Any]) -> None:
    """Print the scores, the worst rows and why others were skipped."""
    console = Console()
    console.print(f"{result['table']}, {result['calibration']}", markup=False)
    scores = Table("", "rows", "mean error", "median", "bias", "rank correlation", box=None)
    for name, score in (("time", result), ("memory", result["memory"])):
        if score["n"]:
            cells = [percent(score["mape"]), percent(score["median_ape"]), percent(score["bias"])]
            rank = score["spearman"]
            scores.add_row(name, str(score["n"]), *cells, "-" if rank is None else f"{rank:.3f}")
    console.print(scores)
    worst = sorted(result["rows"], key=lambda row: -abs(row["error"]))[:WORST]
    rows = Table("row", "model", "metric", "predicted", "measured", "error", box=None)
    for row in worst:
        figures = [f"{row[name]:.4g}" for name in ("predicted", "measured")]
        rows.add_row(str(row["row"]), row["model"], row["metric"], *figures, percent(row["error"]))
    if worst:
        console.print("largest errors:")
        console.print(rows)
    for skip in result["skipped"]:
        console.print(f"row {skip['row']} skipped: {skip['reason']}", markup=False)


def percent(value: float | None) -> str:
    """A fraction as per cent with its sign where negative."""
    return "-" if value is None else f"{value * 100:.1f} %"
