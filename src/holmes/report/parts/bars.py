"""Horizontal bars: a label, a track with pieces and marks, a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holmes.report.parts.html import Child, Html, tag


@dataclass(frozen=True)
class Piece:
    """A part of a bar; ``share`` is of the whole track, ``style`` the CSS class."""

    share: float
    style: str
    tip: str


@dataclass(frozen=True)
class Mark:
    """A thin upright line on the track, at ``share`` of it."""

    share: float
    style: str
    tip: str


def bar(
    label: Child,
    value: Child,
    pieces: Sequence[Piece],
    marks: Sequence[Mark] = (),
    note: Child = None,
) -> Html:
    """One row. Shares beyond the track are cut at its end."""
    drawn = [
        tag("i", class_=f"piece {p.style}", style=f"width:{_percent(p.share)}", data_tip=p.tip)
        for p in pieces
    ]
    drawn += [
        tag("b", class_=f"mark {m.style}", style=f"left:{_percent(m.share)}", data_tip=m.tip)
        for m in marks
    ]
    return tag(
        "div",
        tag("div", label, class_="bar-label"),
        tag("div", *drawn, class_="track"),
        tag("div", value, tag("small", note) if note else None, class_="bar-value"),
        class_="bar",
    )


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"
