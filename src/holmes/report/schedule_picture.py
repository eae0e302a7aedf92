"""A schedule as a picture: SVG, or a page that holds it with its figures."""

from __future__ import annotations

from pathlib import Path

from holmes.errors import WriteError
from holmes.report.parts.html import Html, tag
from holmes.report.schedule_facts import ScheduleFacts
from holmes.report.schedule_text import COLOURS, NAMES
from holmes.schedule.timeline import Slot

ROW, GAP, LEFT, TOP = 26, 4, 52, 30
WIDEST, UNIT = 2400, 22
"""Pixels of the widest picture, and of one time unit in narrower ones."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = "body{font:15px sans-serif;margin:2em}td{padding:.2em 1em .2em 0}div{overflow-x:auto}"


def write_svg(facts: ScheduleFacts, output: Path) -> None:
    """Write the picture.

    Raises:
        WriteError: when it cannot be written.
    """
    _write(output, svg(facts))


def write_html(facts: ScheduleFacts, output: Path) -> None:
    """Write a self-contained page.

    Raises:
        WriteError: when it cannot be written.
    """
    _write(output, "<!doctype html>" + page(facts))


def svg(facts: ScheduleFacts) -> Html:
    """One row a rank, one rectangle an action, the scale of time above."""
    unit = min(UNIT, (WIDEST - LEFT) / facts.length)
    ranks = facts.schedule.stages
    width, height = LEFT + facts.length * unit + 8, TOP + ranks * (ROW + GAP) + ROW
    labels = [
        tag("text", f"rank {rank}", x=4, y=TOP + rank * (ROW + GAP) + 17) for rank in range(ranks)
    ]
    ops = {slot.action.op for slot in facts.slots}
    key = []
    for i, op in enumerate(name for name in NAMES if name in ops):
        x, y = LEFT + i * 130, height - ROW
        key.append(tag("rect", x=x, y=y + 4, width=14, height=14, fill=COLOURS[op][0]))
        key.append(tag("text", NAMES[op], x=x + 20, y=y + 16))
    head = f"{_title(facts)}: bubble {facts.bubble:.2%} of {facts.length:g} units"
    return tag(
        "svg",
        tag("title", head),
        tag("text", head, x=4, y=18),
        *labels,
        *(_bar(facts, slot, unit) for slot in facts.slots),
        *key,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.6g} {height}",
        width=float(width),
        height=height,
        font_family="sans-serif",
        font_size=13,
    )


def page(facts: ScheduleFacts) -> Html:
    """The picture and its figures."""
    closed = facts.closed_form
    rows = [
        ("length", f"{facts.length:g} units"),
        ("bubble", f"{facts.bubble:.2%} of the step"),
        ("closed form", "none" if closed is None else f"{closed:.2%}"),
    ]
    rows += [
        (f"activations on rank {rank}", f"at most {peak:.4g} micro-batches")
        for rank, peak in enumerate(facts.peaks)
    ]
    return tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("title", _title(facts)),
            tag("style", Html(_STYLE)),
        ),
        tag(
            "body",
            tag("h1", _title(facts)),
            tag("div", svg(facts)),
            tag("table", *(tag("tr", tag("td", name), tag("td", text)) for name, text in rows)),
        ),
        lang="en",
    )


def _title(facts: ScheduleFacts) -> str:
    schedule = facts.schedule
    several = f", {schedule.virtual_stages} stages a rank" if schedule.virtual_stages > 1 else ""
    return (
        f"{schedule.name}, {schedule.stages} ranks, {schedule.microbatches} micro-batches{several}"
    )


def _bar(facts: ScheduleFacts, slot: Slot, unit: float) -> Html:
    x, y = LEFT + slot.start * unit, TOP + slot.rank * (ROW + GAP)
    width = (slot.stop - slot.start) * unit
    action = slot.action
    shade = COLOURS[action.op][action.stage // facts.schedule.stages % 2]
    number = str(action.microbatch)
    told = (
        f"{NAMES[action.op]} of micro-batch {number}, stage {action.stage}, "
        f"{slot.start:g} to {slot.stop:g}"
    )
    return tag(
        "g",
        tag("title", told),
        tag("rect", x=x, y=y, width=width, height=ROW, fill=shade, stroke="white"),
        tag("text", number, x=x + width / 2, y=y + 17, text_anchor="middle")
        if width > 8 * len(number)
        else None,
    )


def _write(output: Path, text: str) -> None:
    try:
        output.write_text(text)
    except OSError as error:
        raise WriteError(
            f"cannot write: {error.strerror}", where=str(output), next_step="choose another place"
        ) from None
