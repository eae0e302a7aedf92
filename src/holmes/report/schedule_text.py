"""A schedule drawn in the terminal: one line a pipeline rank.

Without colour a letter tells what runs (F forward, B backward, I input gradient, W weight
gradient; lower case on every second stage of a rank). With colour the letters go, and the
picture is half as wide.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import gcd, lcm

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holmes.report.schedule_facts import ScheduleFacts
from holmes.schedule.instruction import Op
from holmes.schedule.timeline import Slot

MOST_COLUMNS = 2_000
"""Beyond this the drawing gives way to a hint at the pictures."""
LETTERS = {
    Op.FORWARD: "F",
    Op.BACKWARD: "B",
    Op.INPUT_GRADIENT: "I",
    Op.WEIGHT_GRADIENT: "W",
}
NAMES = {
    Op.FORWARD: "forward",
    Op.BACKWARD: "backward",
    Op.INPUT_GRADIENT: "input gradient",
    Op.WEIGHT_GRADIENT: "weight gradient",
}
COLOURS = {
    Op.FORWARD: ("#9cc3e6", "#4a7fb0"),
    Op.BACKWARD: ("#a8d5a2", "#5a9452"),
    Op.INPUT_GRADIENT: ("#8fd0c8", "#3f8c83"),
    Op.WEIGHT_GRADIENT: ("#f0c48a", "#b98232"),
}
"""Of the first and every second stage of a rank, light; of the stages between, dark."""


def show_schedule(facts: ScheduleFacts) -> None:
    """Print the drawing and the figures on stdout."""
    console = Console()
    letters = console.color_system not in ("256", "truecolor")
    for line in drawing(facts, letters=letters):
        if console.is_terminal:
            console.print(line, no_wrap=True, crop=True)
        else:
            print(line.plain.rstrip())
    console.print(key(facts, letters=letters))
    console.print(figures(facts))


def drawing(facts: ScheduleFacts, *, letters: bool) -> list[Text]:
    """One line a rank; equal times have equal widths."""
    unit = _unit(slot.stop - slot.start for slot in facts.slots)
    digits = len(str(facts.schedule.microbatches - 1))
    width = digits + 1 + letters
    columns = round(facts.length / unit) * width
    if columns > MOST_COLUMNS:
        return [Text(f"{columns} columns are too many: use --svg FILE or --html FILE")]
    rows = []
    label = len(str(facts.schedule.stages - 1))
    for rank in range(facts.schedule.stages):
        line = Text(f"{rank:>{label}} ")
        at = 0.0
        for slot in (slot for slot in facts.slots if slot.rank == rank):
            line.append(" " * (round((slot.start - at) / unit) * width))
            line.append_text(
                _cell(facts, slot, round((slot.stop - slot.start) / unit) * width, letters)
            )
            at = slot.stop
        rows.append(line)
    return rows


def key(facts: ScheduleFacts, *, letters: bool) -> Text:
    """What the colours or letters mean."""
    ops = {slot.action.op for slot in facts.slots}
    line = Text("  ")
    for op in (op for op in NAMES if op in ops):
        name = f"{LETTERS[op]} {NAMES[op]}" if letters else f" {NAMES[op]} "
        line.append(name, style="" if letters else f"black on {COLOURS[op][0]}").append("  ")
    if facts.schedule.virtual_stages > 1:
        line.append(f"{'lower case' if letters else 'darker'}: every second stage of a rank")
    return line


def _cell(facts: ScheduleFacts, slot: Slot, columns: int, letters: bool) -> Text:
    second = slot.action.stage // facts.schedule.stages % 2
    if not letters:
        style = f"black on {COLOURS[slot.action.op][second]}"
        return Text(f"{slot.action.microbatch}".ljust(columns), style=style)
    letter = LETTERS[slot.action.op]
    letter = letter.lower() if second else letter
    text = f"{letter}{slot.action.microbatch}"
    return Text(text.ljust(columns - 1, "-") + " ")


def _unit(lengths: Iterable[float]) -> float:
    """The longest time that divides all lengths."""
    found = [Fraction(length).limit_denominator(1000) for length in lengths]
    below = lcm(*(length.denominator for length in found))
    return gcd(*(int(length * below) for length in found)) / below


def figures(facts: ScheduleFacts) -> Table:
    """Length, bubble and activation peaks."""
    schedule = facts.schedule
    closed = facts.closed_form
    against = "no closed form" if closed is None else f"closed form {closed:.2%}"
    peaks = ", ".join(f"{peak:.4g}" for peak in facts.peaks)
    table = Table(show_header=False, box=box.SIMPLE)
    table.add_row(
        "schedule",
        f"{schedule.name}, {schedule.stages} ranks, {schedule.microbatches} micro-batches, "
        f"{schedule.virtual_stages} stage{'s' if schedule.virtual_stages > 1 else ''} per rank",
    )
    table.add_row("length", f"{facts.length:g} units")
    table.add_row("bubble", f"{facts.bubble:.2%} of the step ({against})")
    table.add_row("activations", f"at most {peaks} micro-batches on rank 0, 1, ...")
    return table
