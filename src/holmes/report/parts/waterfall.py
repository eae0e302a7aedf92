"""From the predicted to the measured step time, cause by cause, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from holmes.errors import HolmesError
from holmes.report import units
from holmes.report.causes import Comparison
from holmes.report.compare import compare_run
from holmes.report.parts.html import Html, section, tag
from holmes.report.run_data import RunData
from holmes.report.waterfall_table import by_cause, signed, steps_of, window

MOST = 8


def why_slower(runs: Sequence[RunData]) -> Html | None:
    """One waterfall a run; None where no run has both a prediction and a trace."""
    figures = []
    notes = []
    for run in runs:
        if not (run.plan and run.predicted.spans and run.measured.spans):
            continue
        try:
            figures.append(waterfall(compare_run(run), run.name))
        except HolmesError as error:
            notes.append(tag("p", f"{run.name}: {error.what}.", class_="note"))
    if not figures and not notes:
        return None
    return section(
        "causes",
        "Where the prediction was wrong",
        "From the predicted step to the measured one, along the chain of instructions that made "
        "it as long as it was. The pieces add up to the difference exactly.",
        legend(),
        tag("div", *figures, class_="columns" if len(figures) > 1 else None),
        *notes,
    )


def waterfall_section(comparison: Comparison) -> Html:
    """The section of one comparison."""
    name = f"{comparison.first} → {comparison.second}"
    return section(
        "causes",
        "Why the two steps differ",
        "Along the chain of instructions that made the second step as long as it is. The pieces "
        "add up to the difference exactly.",
        legend(),
        waterfall(comparison, name),
        *(tag("p", note, class_="note") for note in comparison.notes),
    )


def legend() -> Html:
    """What the colours mean."""
    said = {
        "compute": "an instruction computed longer",
        "transfer": "bytes moved for longer",
        "waiting": "ready, but started late",
        "bubble": "predicted idle time that absorbed some",
    }
    return tag(
        "ul",
        *(tag("li", tag("span", class_=f"swatch c-{k}"), f"{k}: {v}") for k, v in said.items()),
        class_="legend",
    )


def waterfall(comparison: Comparison, name: str) -> Html:
    """A figure: a bar for each step, and between them a floating bar for each cause."""
    rows, ends = steps_of(comparison, MOST)
    low, high = window(comparison, ends)

    def share(level: int) -> float:
        return 100 * (level - low) / (high - low)

    drawn = [_end("first", comparison.first, comparison.before, share(comparison.before))]
    for row, start, stop in zip(rows, ends, ends[1:], strict=False):
        left, right = sorted((share(start), share(stop)))
        tip = (
            f"{row.cause}: {row.where}\n{units.seconds(row.before * 1e-9)} → "
            f"{units.seconds(row.after * 1e-9)} in {row.count} of the chain"
        )
        label = f"waiting {row.where}" if row.cause == "waiting" else row.where
        style = f"left:{left:.2f}%;width:{max(right - left, 0.4):.2f}%"
        drawn.append(
            tag(
                "div",
                tag("div", label, class_="fall-label"),
                tag(
                    "div",
                    tag("i", class_=f"fall c-{row.cause}", style=style, data_tip=tip),
                    class_="fall-track",
                ),
                tag("div", signed(row.nanoseconds), class_="fall-value"),
                class_="fall-row",
            )
        )
    drawn.append(_end("second", comparison.second, comparison.after, share(comparison.after)))
    off = comparison.nanoseconds / comparison.before if comparison.before else 0.0
    told = ", ".join(f"{k} {signed(v)}" for k, v in by_cause(comparison).items() if v)
    said = f"{told[:1].upper()}{told[1:]}" if told else "No cause of a difference"
    return tag(
        "figure",
        tag("figcaption", f"{name}: {signed(comparison.nanoseconds)} ({units.percent(off)})"),
        tag("div", *drawn, class_="falls", role="img", aria_label=f"{name}: {told}"),
        tag("p", f"{said}. The scale starts at {units.seconds(low * 1e-9)}.", class_="note"),
    )


def _end(style: str, label: str, nanoseconds: int, width: float) -> Html:
    return tag(
        "div",
        tag("div", label, class_="fall-label strong"),
        tag(
            "div",
            tag("i", class_=f"fall end {style}", style=f"left:0;width:{width:.2f}%"),
            class_="fall-track",
        ),
        tag("div", units.seconds(nanoseconds * 1e-9), class_="fall-value strong"),
        class_="fall-row",
    )
