"""Bytes on the wire by NIC kind, and memory by rank: measured or predicted against its bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holmes.errors import ConfigError
from holmes.hardware.catalogue import resolve
from holmes.hardware.site import Device
from holmes.hardware.topology import Topology
from holmes.plan import Plan
from holmes.report import units
from holmes.report.parts.bars import Mark, Piece, bar
from holmes.report.parts.chart import Line, line_chart, thin
from holmes.report.parts.html import Html, join, section, tag
from holmes.report.run_data import RunData

MOST_RANKS = 16
MOST_LINES = 4
"""Ranks drawn over time: the fullest."""


def traffic(runs: Sequence[RunData]) -> Html:
    """Bytes sent per step and NIC kind, kernel counters against the plan's formula."""
    tables = [(run, _bytes_of(run)) for run in runs]
    known = [v for _, rows in tables for pair in rows.values() for v in pair if v]
    if not known:
        return section(
            "bytes", "Bytes on each network", "No byte counts and no plan: nothing to show."
        )
    most = 1.04 * max(known)
    blocks = []
    for run, rows in tables:
        bars = [_traffic_bar(kind, *pair, most) for kind, pair in sorted(rows.items())]
        heading = tag("h3", run.name) if len(runs) > 1 else None
        blocks.append(tag("div", heading, tag("div", *bars, class_="bars")))
    return section(
        "bytes",
        "Bytes on each network",
        "Sent per step, summed over all hosts. The bar is what the kernel counted on the "
        "interfaces; the upright line is what the plan's formula says.",
        tag("div", *blocks, class_="columns"),
    )


def _bytes_of(run: RunData) -> dict[str, tuple[float | None, float | None]]:
    """{NIC kind: (measured, predicted)}."""
    told: Any = run.summary.get("bytes_per_step")
    if isinstance(told, Mapping) and told:
        return {
            str(kind): (
                run.figure("bytes_per_step", kind, "measured"),
                run.figure("bytes_per_step", kind, "predicted"),
            )
            for kind in told
        }
    if run.plan:
        return {kind: (None, float(n)) for kind, n in run.plan.predicted.bytes_per_step.items()}
    return {}


def _traffic_bar(kind: str, measured: float | None, predicted: float | None, most: float) -> Html:
    tip = f"{kind}: {units.bytes_(measured)} measured, {units.bytes_(predicted)} by the formula"
    pieces = [Piece(measured / most, f"t-{kind}", tip)] if measured else []
    marks = [Mark(predicted / most, "expected", tip)] if predicted else []
    value = units.bytes_(measured) if measured is not None else "not measured"
    note = f"formula {units.bytes_(predicted)}"
    if measured and predicted:
        note += f", {units.percent(measured / predicted - 1)}"
    return bar(label_of(kind), value, pieces, marks, note)


def label_of(kind: str) -> str:
    """How a transport is called on the page."""
    names = {"infiniband": "InfiniBand", "roce": "RoCE", "ethernet": "Ethernet"}
    return names.get(kind, kind)


def memory(runs: Sequence[RunData]) -> Html:
    """Predicted memory of each rank, against the device's."""
    blocks = [block for run in runs if run.plan for block in _memory_of(run, run.plan, len(runs))]
    if not blocks:
        return section(
            "memory", "Memory per rank", "No plan with predicted memory: nothing to show."
        )
    return section(
        "memory",
        "Memory per rank",
        "Predicted peak: parameters, gradients, optimiser states, activations in flight and "
        "buffers. The upright line is what the device has.",
        tag("div", *blocks, class_="columns"),
        _over_time(runs),
    )


def _over_time(runs: Sequence[RunData]) -> Html | None:
    """Measured memory over the steps: the ranks that held the most, a chart a run."""
    charts: list[Html] = []
    for run in runs:
        most = {rank: max(held) for rank, held in _held(run).items() if held}
        fullest = sorted(most, key=lambda rank: -most[rank])
        lines = [
            Line(
                f"rank {rank}",
                thin([(float(step), float(bytes_)) for step, bytes_ in run.memory[rank]]),
                f"run-{'abcd'[i]}",
            )
            for i, rank in enumerate(sorted(fullest[:MOST_LINES]))
        ]
        if lines:
            chart = line_chart(lines, [], units.bytes_, from_zero=True, label="Memory by step")
            caption = (
                f"{run.name}: held after each step" if len(runs) > 1 else "Held after each step"
            )
            charts.append(
                tag("figure", tag("figcaption", caption), _legend(lines, len(run.memory)), chart)
            )
    if not charts:
        return None
    note = (
        "Measured: on a GPU the most that was allocated, on a CPU what the process held, "
        "interpreter and libraries among it."
    )
    columns = tag("div", *charts, class_="columns")
    return tag("div", columns, tag("p", note, class_="note"), class_="below")


def _held(run: RunData) -> dict[int, list[int]]:
    return {rank: [bytes_ for _, bytes_ in rows] for rank, rows in run.memory.items()}


def _legend(lines: Sequence[Line], ranks: int) -> Html:
    items = [tag("li", tag("span", class_=f"swatch {line.style}"), line.name) for line in lines]
    if ranks > len(lines):
        items.append(tag("li", f"the fullest {len(lines)} of {ranks}"))
    return tag("ul", *items, class_="legend")


def _memory_of(run: RunData, plan: Plan, runs: int) -> list[Html]:
    predicted = plan.predicted.memory_bytes
    if not predicted:
        return []
    devices = Topology(plan.site).devices
    limits = {
        rank: _limit(devices[device].node.device) for rank, device in enumerate(plan.rank_map)
    }
    shown = sorted(predicted, key=lambda rank: (-predicted[rank], rank))[:MOST_RANKS]
    full = [limit for rank in shown if (limit := limits.get(rank))]
    most = 1.04 * max([float(predicted[rank]) for rank in shown] + full)
    bars = [
        _memory_bar(rank, plan, predicted[rank], limits.get(rank), most) for rank in sorted(shown)
    ]
    notes: list[str] = []
    if len(shown) < len(predicted):
        notes.append(f"The {len(shown)} fullest of {len(predicted)} ranks.")
    if not full:
        notes.append("Neither site nor catalogue says what these devices hold: no limit is drawn.")
    heading = tag("h3", run.name) if runs > 1 else None
    note = tag("p", " ".join(notes), class_="note") if notes else None
    return [tag("div", heading, tag("div", *bars, class_="bars"), note)]


def _limit(device: Device) -> float | None:
    """Bytes of one device: as the site says, else as the catalogue does."""
    try:
        memory_gb = resolve(device).memory_gb
    except ConfigError:  # a kind this catalogue does not know still has its bar
        memory_gb = device.memory_gb
    return memory_gb * 1e9 if memory_gb else None


def _memory_bar(rank: int, plan: Plan, used: int, limit: float | None, most: float) -> Html:
    stages = [stage for stage in plan.stages if rank in stage.ranks]
    blocks = ", ".join(f"{s.blocks[0]} to {s.blocks[1] - 1}" for s in stages)
    tip = f"rank {rank}: {units.bytes_(used)}, blocks {blocks}"
    over = " over" if limit and used > limit else ""
    marks = [Mark(limit / most, "limit", f"device memory {units.bytes_(limit)}")] if limit else []
    note = f"of {units.bytes_(limit)}" if limit else None
    label = join((f"rank {rank}", tag("small", f"stage {stages[0].stage}") if stages else None))
    return bar(label, units.bytes_(used), [Piece(used / most, f"ink{over}", tip)], marks, note)
