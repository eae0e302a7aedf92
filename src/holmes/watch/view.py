"""The live terminal view of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from holmes.report import units
from holmes.watch.snapshot import RankStanding, Snapshot

TICKS = "▁▂▃▄▅▆▇█"
WIDTH = 60
MOST_RANKS = 16
COLOURS = {
    "running": "green",
    "finished": "green",
    "starting": "cyan",
    "stalled": "bold red",
    "stopped": "yellow",
    "failed": "bold red",
}


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """The values as one line of bars, the newest at the right; ``x`` for one not finite."""
    if not values:
        return ""
    shown = _thinned(list(values), width)
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = high - low

    def tick(value: float) -> str:
        if not math.isfinite(value):
            return "x"
        return TICKS[min(7, int(8 * (value - low) / span))] if span else TICKS[0]

    return "".join(map(tick, shown))


def _thinned(values: list[float], width: int) -> list[float]:
    """At most ``width`` values: means of equal parts, so that nothing is skipped."""
    if len(values) <= width:
        return values
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


def view(shot: Snapshot) -> RenderableType:
    """Everything about a run that fits a screen."""
    parts: list[RenderableType] = [_head(shot), _curves(shot), _traffic(shot), _ranks(shot)]
    if shot.diagnosis:
        parts.append(Text(f"diagnosis: {shot.diagnosis} (holmes diagnose says more)"))
    return Group(*parts)


def _head(shot: Snapshot) -> RenderableType:
    total = f" of {shot.steps}" if shot.steps else ""
    left = f", {units.seconds(shot.left_seconds)} left" if shot.left_seconds else ""
    saved = f", checkpoint {shot.checkpoint}" if shot.checkpoint else ""
    line = Text(f"{shot.name}  ", style="bold")
    line.append(shot.state, style=COLOURS[shot.state])
    line.append(f"  step {shot.step}{total}{left}{saved}", style="not bold")
    return line


def _curves(shot: Snapshot) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    if shot.loss is not None:
        held = f", held out {shot.validation:.4g}" if shot.validation is not None else ""
        table.add_row(
            "loss", sparkline([loss for _, loss in shot.losses]), f"{shot.loss:.4g}{held}"
        )
    if shot.step_seconds is not None:
        behind = f"{shot.behind:+.0%}" if shot.behind is not None else ""
        table.add_row(
            "step",
            sparkline([seconds for _, seconds in shot.seconds]),
            f"{units.seconds(shot.step_seconds)}, predicted "
            f"{units.seconds(shot.predicted_seconds)} ({behind})",
        )
    if shot.tokens_per_second is not None:
        norm = f", gradient norm {shot.grad_norm:.3g}" if shot.grad_norm is not None else ""
        table.add_row("tokens", "", f"{shot.tokens_per_second:,.0f} a second{norm}")
    return table


def _traffic(shot: Snapshot) -> RenderableType:
    kinds = dict.fromkeys([*shot.predicted_bytes, *shot.bytes_per_step])
    if not kinds:
        return Text("no network carries this run", style="dim")
    table = Table("network", "a step", "by the formula", "rate", box=None, pad_edge=False)
    for kind in kinds:
        sent = shot.bytes_per_step.get(kind)
        rate = shot.bytes_per_second.get(kind)
        table.add_row(
            kind,
            "not counted" if sent is None else units.bytes_(sent),
            units.bytes_(shot.predicted_bytes.get(kind, 0)),
            "" if rate is None else f"{8 * rate / 1e9:.3g} Gbit/s",
        )
    return table


def _ranks(shot: Snapshot) -> RenderableType:
    table = Table("rank", "node", "step", "doing", "memory", "plan", box=None, pad_edge=False)
    most = max((each.step for each in shot.ranks if each.step is not None), default=0)
    shown = _worth_showing(shot.ranks)
    for each in shown:
        late = each.step is not None and each.step < most
        ended = "ended" if shot.state == "finished" else "gone"
        doing = ended if each.alive is False else each.phase
        table.add_row(
            str(each.rank),
            each.node,
            "" if each.step is None else str(each.step),
            doing,
            "" if each.memory_bytes is None else units.bytes_(each.memory_bytes),
            "" if each.predicted_bytes is None else units.bytes_(each.predicted_bytes),
            style="yellow" if late else "",
        )
    if len(shown) < len(shot.ranks):
        rest = len(shot.ranks) - len(shown)
        return Group(table, Text(f"and {rest} more ranks that are no further behind", style="dim"))
    return table


def _worth_showing(ranks: Sequence[RankStanding]) -> list[RankStanding]:
    """The ranks that are furthest behind, in rank order."""
    behind = sorted(ranks, key=lambda each: (each.step is None, each.step or 0, each.rank))
    return sorted(behind[:MOST_RANKS], key=lambda each: each.rank)
