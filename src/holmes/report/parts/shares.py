"""Where the time of a step went, and how far each kind of instruction was from its prediction."""

from __future__ import annotations

from collections.abc import Sequence

from holmes.events.join import (
    OpSummary,
    Shares,
    by_operation,
    join,
    mean_shares,
    shares,
)
from holmes.events.span import Timeline
from holmes.report import units
from holmes.report.parts.bars import Piece, bar
from holmes.report.parts.html import Html, section, tag
from holmes.report.run_data import RunData

_PARTS = (
    ("compute", "share-compute", "computing"),
    ("transfer", "share-transfer", "idle while bytes move"),
    ("waiting", "share-waiting", "idle, nothing moves"),
)


def where_time_goes(runs: Sequence[RunData]) -> Html:
    """One stacked bar for each run and source, mean over ranks, on one scale."""
    rows: list[tuple[str, str, Shares]] = []
    for run in runs:
        for timeline in (_typical(run), run.predicted):
            if timeline.spans:
                rows.append((run.name, timeline.source, mean_shares(shares(timeline).values())))
    if not rows:
        return section("time", "Where a step goes", "No spans were recorded: nothing to show.")
    longest = max(split.total for _, _, split in rows)
    bars = [_stack(name if len(runs) > 1 else "", source, s, longest) for name, source, s in rows]
    legend = [tag("li", tag("span", class_=f"swatch {c}"), text) for _, c, text in _PARTS]
    return section(
        "time",
        "Where a step goes",
        "Mean over the ranks. Time on the wire counts only where it is not hidden under computing.",
        tag("ul", *legend, class_="legend"),
        tag("div", *bars, class_="bars"),
        *[_operations(run, len(runs) > 1) for run in runs],
    )


def _typical(run: RunData) -> Timeline:
    step = run.typical_step
    return Timeline("measured") if step is None else run.measured.step(step)


def _stack(name: str, source: str, split: Shares, longest: float) -> Html:
    pieces = []
    for field, style, meaning in _PARTS:
        value: float = getattr(split, field)
        tip = (
            f"{source}, {meaning}: {units.seconds(value / 1e9)} ({100 * value / split.total:.0f} %)"
        )
        pieces.append(Piece(value / longest, style, tip))
    busy = f"computing {100 * split.compute / split.total:.0f} %"
    label = f"{name} {source}".strip()
    return bar(label, units.seconds(split.total / 1e9), pieces, note=busy)


def _operations(run: RunData, named: bool) -> Html | None:
    """A table by kind of instruction, folded away until asked for."""
    if not run.predicted.spans or not run.measured.spans:
        return None
    joined = join(run.predicted, run.measured, run.typical_step)
    if not joined.pairs:
        return tag("p", f"No instruction of {run.name} has both a prediction and a measurement.")
    rows = [_operation(row) for row in by_operation(joined)]
    header = tag(
        "tr",
        tag("th", "instruction"),
        *(tag("th", t, class_="num") for t in ("count", "predicted", "measured", "off by")),
    )
    loose = len(joined.only_predicted) + len(joined.only_measured)
    note = f"{loose} instructions have only one of the two." if loose else None
    title = "Predicted and measured, by kind of instruction" + (f": {run.name}" if named else "")
    return tag(
        "details",
        tag("summary", title),
        tag("div", tag("table", tag("thead", header), tag("tbody", *rows)), class_="scroll"),
        tag("p", note, class_="note") if note else None,
    )


def _operation(row: OpSummary) -> Html:
    off = units.percent(row.predicted / row.measured - 1) if row.measured else "not known"
    cells = (
        tag("td", row.op.replace("_", "-")),
        tag("td", str(row.count), class_="num"),
        tag("td", units.seconds(row.predicted / 1e9), class_="num"),
        tag("td", units.seconds(row.measured / 1e9), class_="num"),
        tag("td", off, class_="num"),
    )
    return tag("tr", *cells)
