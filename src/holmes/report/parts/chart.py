"""A line chart as inline SVG, with axes, hover points and dashed reference lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holmes.report.parts.html import Html, join, tag

WIDTH, HEIGHT = 560.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 34.0
MOST_POINTS = 300


@dataclass(frozen=True)
class Line:
    """One series. ``style`` is the CSS class that colours it; x must ascend."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line."""

    name: str
    value: float
    style: str


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most :data:`MOST_POINTS` points, evenly spaced, the last one always kept."""
    stride = max(1, math.ceil(len(points) / MOST_POINTS))
    kept = list(points[::stride])
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover [low, high], about ``wanted`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def line_chart(
    lines: Sequence[Line],
    levels: Sequence[Level],
    show: Callable[[float], str],
    *,
    from_zero: bool,
    label: str,
    across: str = "step",
) -> Html:
    """Draw lines over steps (or what ``across`` names); ``show`` writes a y value.

    At least one finite point is needed.
    """
    values = [y for line in lines for _, y in line.points] + [level.value for level in levels]
    steps = [x for line in lines for x, _ in line.points]
    low = 0.0 if from_zero else min(values)
    high = max(values)
    spread = (high - low) or abs(high) or 1.0
    low, high = (0.0 if from_zero else low - 0.06 * spread), high + 0.06 * spread
    left, right = min(steps), max(max(steps), min(steps) + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        up = (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return LEFT + across, HEIGHT - BOTTOM - up

    parts = _axes(ticks(low, high), ticks(left, right, 6), place, show)
    parts.append(tag("text", across, x=WIDTH - RIGHT, y=HEIGHT - 2, class_="tick end"))
    for level in levels:
        y = place(left, level.value)[1]
        tip = f"{level.name}: {show(level.value)}"
        parts.append(
            tag(
                "line",
                x1=LEFT,
                x2=WIDTH - RIGHT,
                y1=y,
                y2=y,
                class_=f"level {level.style}",
                data_tip=tip,
            )
        )
    for line in lines:
        parts += _line(line, place, show, across)
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        class_="chart",
        role="img",
        aria_label=label,
    )


Place = Callable[[float, float], tuple[float, float]]


def _axes(
    rows: Sequence[float], columns: Sequence[float], place: Place, show: Callable[[float], str]
) -> list[Html]:
    parts: list[Html] = []
    for value in rows:
        y = place(columns[0], value)[1]
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", show(value), x=LEFT - 8, y=y + 4, class_="tick end"))
    for value in columns:
        if value == int(value):
            x = place(value, rows[0])[0]
            parts.append(
                tag("text", f"{int(value)}", x=x, y=HEIGHT - BOTTOM + 18, class_="tick mid")
            )
    return parts


def _line(line: Line, place: Place, show: Callable[[float], str], across: str) -> list[Html]:
    where = [place(x, y) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
    dots = [
        tag(
            "circle",
            cx=x,
            cy=y,
            r=7.0,
            class_="hit",
            data_tip=f"{line.name}, {across} {s:g}\n{show(v)}",
        )
        for (x, y), (s, v) in zip(where, line.points, strict=True)
    ]
    drawn = tag("polyline", points=path, class_=f"line {line.style}")
    if "held-out" in line.style.split():
        points = (tag("circle", cx=x, cy=y, r=3.5, class_=f"dot {line.style}") for x, y in where)
        drawn = join(points)
    elif len(where) == 1:
        drawn = tag("circle", cx=where[0][0], cy=where[0][1], r=3.5, class_=f"dot {line.style}")
    return [drawn, join(dots)]
