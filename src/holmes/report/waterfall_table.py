"""The waterfall from one step time to another as a table with bars."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from holmes.report import units
from holmes.report.causes import Cause, Comparison, ShownKind

BAR = 24
MOST = 14
VISIBLE = 1000
"""A cause smaller than this fraction (one in ...) of the largest one is not worth a row."""
_STYLE = {
    "compute": "magenta",
    "transfer": "blue",
    "waiting": "yellow",
    "bubble": "green",
    "outside": "white",
    "others": "white",
}


def waterfall_table(comparison: Comparison, most: int = MOST) -> Table:
    """First step, causes, second step; the middle rows add up to the difference."""
    table = Table(
        title=Text(f"{comparison.first} → {comparison.second}", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("cause", no_wrap=True)
    table.add_column("where", overflow="fold", max_width=44)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=BAR)
    rows, ends = steps_of(comparison, most)
    low, high = window(comparison, ends)
    table.add_row("", Text(comparison.first), _plain(comparison.before), "")
    at = comparison.before
    for cause in rows:
        bar = _bar(at, at + cause.nanoseconds, low, high)
        style = _STYLE[cause.cause]
        title = Text(cause.cause, style=style)
        table.add_row(title, Text(cause.where), signed(cause.nanoseconds), Text(bar, style=style))
        at += cause.nanoseconds
    table.add_row("", Text(comparison.second), _plain(comparison.after), "", style="bold")
    totals = by_cause(comparison)
    said = ", ".join(f"{name} {signed(value)}" for name, value in totals.items() if value)
    table.caption = Text(
        f"difference {signed(comparison.nanoseconds)}" + (f": {said}" if said else ""), style="bold"
    )
    table.caption_justify = "left"
    return table


def by_cause(comparison: Comparison) -> dict[ShownKind, int]:
    """Nanoseconds of every kind of cause that is there."""
    totals: dict[ShownKind, int] = {}
    for cause in comparison.causes:
        totals[cause.cause] = totals.get(cause.cause, 0) + cause.nanoseconds
    return totals


def steps_of(comparison: Comparison, most: int) -> tuple[list[Cause], list[int]]:
    """The rows of a waterfall, the smallest causes summed into one, and where each row ends."""
    largest = max((abs(cause.nanoseconds) for cause in comparison.causes), default=0)
    moved = [cause for cause in comparison.causes if abs(cause.nanoseconds) * VISIBLE > largest]
    shown = set(sorted(moved, key=lambda cause: -abs(cause.nanoseconds))[:most])
    rows = [cause for cause in comparison.causes if cause in shown]
    rest = [cause for cause in comparison.causes if cause.nanoseconds and cause not in shown]
    if sum(cause.nanoseconds for cause in rest):
        before, after = sum(c.before for c in rest), sum(c.after for c in rest)
        count = sum(c.count for c in rest)
        rows.append(Cause("others", f"{len(rest)} smaller causes", count, before, after))
    ends = [comparison.before]
    for row in rows:
        ends.append(ends[-1] + row.nanoseconds)
    return rows, ends


def window(comparison: Comparison, ends: list[int]) -> tuple[int, int]:
    """What a picture has to show: every level that is reached, with a margin, never below 0."""
    low, high = min(*ends, comparison.after), max(*ends, comparison.after)
    margin = max(1, (high - low) // 8)
    return max(0, low - margin), high + margin


def signed(nanoseconds: int) -> str:
    """``+12.0 ms``, with a true minus sign."""
    text = units.seconds(abs(nanoseconds) * 1e-9)
    return text if nanoseconds == 0 else ("+" if nanoseconds > 0 else "\N{MINUS SIGN}") + text


def _plain(nanoseconds: int) -> str:
    return units.seconds(nanoseconds * 1e-9)


def _bar(start: int, stop: int, low: int, high: int) -> str:
    """A bar between two levels; rich's console draws it in ASCII lines where it must."""
    left, right = sorted((start, stop))
    begin = round((left - low) / (high - low) * (BAR - 1))
    width = max(1, round((right - left) / (high - low) * (BAR - 1)))
    return " " * begin + ("█" if stop >= start else "░") * width
