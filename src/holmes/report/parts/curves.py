"""Step time and loss over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from holmes.report import units
from holmes.report.parts.chart import MOST_POINTS, Level, Line, line_chart, thin
from holmes.report.parts.html import Html, section, tag
from holmes.report.run_data import RunData

STYLES = ("run-a", "run-b", "run-c", "run-d")


def curves(runs: Sequence[RunData]) -> Html:
    """Both charts side by side, with a legend when there are several runs."""
    if not any(run.metrics for run in runs):
        return section("curves", "Over the steps", "No metrics were recorded: no curves to draw.")
    legend = [
        tag("li", tag("span", class_=f"swatch {STYLES[i % 4]}"), run.name)
        for i, run in enumerate(runs)
    ]
    legend.append(tag("li", tag("span", class_="swatch dashed"), "predicted step time"))
    long = max(len(run.metrics) for run in runs) > MOST_POINTS
    note = "Long runs are drawn from evenly spaced steps." if long else None
    return section(
        "curves",
        "Over the steps",
        "Left, how long each step took, barrier to barrier, on the slowest rank. Right, the "
        "training loss" + (": every placement trains on the same data." if len(runs) > 1 else "."),
        tag("ul", *legend, class_="legend"),
        tag("div", _step_times(runs), _losses(runs), class_="columns"),
        tag("p", note, class_="note") if note else None,
    )


def _step_times(runs: Sequence[RunData]) -> Html:
    lines: list[Line] = []
    levels: list[Level] = []
    for i, run in enumerate(runs):
        points = thin([(float(m.step), m.step_seconds) for m in run.metrics])
        if points:
            lines.append(Line(run.name, points, STYLES[i % 4]))
        if run.predicted_seconds:
            levels.append(Level(f"{run.name}, predicted", run.predicted_seconds, STYLES[i % 4]))
    chart = line_chart(lines, levels, units.seconds, from_zero=True, label="Step time by step")
    return tag("figure", tag("figcaption", "Step time"), chart)


def _losses(runs: Sequence[RunData]) -> Html:
    lines: list[Line] = []
    diverged: list[str] = []
    for i, run in enumerate(runs):
        told = [(float(m.step), m.loss) for m in run.metrics if m.loss is not None]
        finite = [(step, loss) for step, loss in told if math.isfinite(loss)]
        if len(finite) < len(told):
            diverged.append(run.name)
        if finite:
            # The last drawn line is dashed, so that equal curves stay visible under it.
            dashed = " over-dashed" if i and i == len(runs) - 1 else ""
            lines.append(Line(run.name, thin(finite), STYLES[i % 4] + dashed))
        held = [(float(step), loss) for step, loss in run.held_out if math.isfinite(loss)]
        if held:
            lines.append(Line(f"{run.name}, held out", thin(held), f"{STYLES[i % 4]} held-out"))
    if not lines:
        body = tag("p", "No loss: virtual devices move bytes and compute nothing.", class_="empty")
        return tag("figure", tag("figcaption", "Training loss"), body)
    chart = line_chart(lines, [], lambda y: f"{y:.3g}", from_zero=False, label="Loss by step")
    said = " in training; on held-out text as points" if any(r.held_out for r in runs) else ""
    warning = f"The loss was not finite in some steps of {', '.join(diverged)}."
    return tag(
        "figure",
        tag("figcaption", "Loss", tag("small", said) if said else None),
        chart,
        tag("p", warning, class_="note") if diverged else None,
    )
