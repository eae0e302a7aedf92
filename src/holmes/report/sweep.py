"""A sweep over nodes: a table with bars for the terminal, charts on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from holmes.errors import WriteError
from holmes.report import units
from holmes.report.page import document
from holmes.report.parts.chart import Line, line_chart
from holmes.report.parts.html import Html, join, section, tag

BAR = 24
"""Characters of the longest bar."""


def show_sweep(points: Sequence[Mapping[str, Any]]) -> None:
    """Print the table on stdout."""
    Console().print(sweep_table(points))


def sweep_table(points: Sequence[Mapping[str, Any]]) -> Table:
    """One line a size; the bar is throughput."""
    table = Table(title="Sweep", box=box.SIMPLE_HEAD, title_justify="left")
    priced = any(point["cost_per_million_tokens"] is not None for point in points)
    names = ["nodes", "step", "tokens/s", "", "efficiency", *(["cost/M tokens"] if priced else [])]
    for name in (*names, "layout"):
        table.add_column(name, overflow="fold")
    most = max((point["tokens_per_second"] or 0.0 for point in points), default=0.0)
    for point in points:
        if point["step_seconds"] is None:
            empty = [""] * (len(names) - 1)
            table.add_row(str(point["nodes"]), *empty, f"no plan: {point['reason']}")
            continue
        bar = "#" * max(1, round(BAR * point["tokens_per_second"] / most))
        cells = [
            str(point["nodes"]),
            units.seconds(point["step_seconds"]),
            f"{point['tokens_per_second']:.3g}",
            bar,
            f"{point['efficiency']:.0%}",
        ]
        if priced:
            cost = point["cost_per_million_tokens"]
            cells.append("" if cost is None else f"{cost:.4g}")
        table.add_row(*cells, point["layout"])
    return table


def write_sweep(points: Sequence[Mapping[str, Any]], title: str, output: Path) -> None:
    """Write the charts as one self-contained page.

    Raises:
        WriteError: when the page cannot be written.
    """
    charts = [
        _chart(points, "tokens_per_second", "Tokens per second", lambda v: f"{v:.3g}"),
        _chart(points, "efficiency", "Efficiency per device", lambda v: f"{v:.0%}"),
        _chart(points, "cost_per_million_tokens", "Cost of a million tokens", lambda v: f"{v:.3g}"),
    ]
    drawn = [chart for chart in charts if chart is not None]
    body = join((tag("h1", title), *drawn, tag("div", id="tip", role="status")))
    try:
        output.write_text(document(title, body), encoding="utf-8")
    except OSError as error:
        raise WriteError(f"cannot write the page: {error.strerror}", where=str(output)) from None


def _chart(points: Sequence[Mapping[str, Any]], key: str, title: str, show: Any) -> Html | None:
    where = [(float(p["nodes"]), float(p[key])) for p in points if p[key] is not None]
    if not where:
        return None
    line = Line(title, where, "measured")
    drawn = line_chart([line], [], show, from_zero=True, label=title, across="nodes")
    return section(key.replace("_", "-"), title, "Against the number of nodes.", drawn)
