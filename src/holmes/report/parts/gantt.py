"""The schedule as data for the page's script: rows per rank and lane, spans as short lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holmes.events.join import COMPUTE_LANE, wire_starts
from holmes.events.span import Span, Timeline
from holmes.hardware.topology import Topology
from holmes.plan import Plan
from holmes.report.parts.html import Html, section, tag
from holmes.report.run_data import RunData

MOST_SPANS = 14_000
"""Spans embedded for all runs together; keeps the page far below 2 MB."""

FIELDS = ("id", "lane", "op", "stage", "microbatch", "start_us", "wire_us", "stop_us", "bytes")


def gantt_data(runs: Sequence[RunData]) -> dict[str, Any]:
    """JSON-ready: per run its lanes and, per step, spans in microseconds from the step's start."""
    budget = MOST_SPANS // max(1, len(runs))
    return {"fields": FIELDS, "runs": [_run_data(run, budget) for run in runs]}


def _run_data(run: RunData, budget: int) -> dict[str, Any]:
    predicted = _first_step(run.predicted)
    lanes = _lanes((*predicted.spans, *run.measured.spans), run.plan)
    row = {(lane["rank"], lane["name"]): i for i, lane in enumerate(lanes)}
    keep = _kept_steps(run, budget - len(predicted.spans))
    return {
        "name": run.name,
        "lanes": lanes,
        "fold": _folded(run.plan),
        "predicted": _rows(predicted, row),
        "measured": {str(step): _rows(run.measured.step(step), row) for step in keep},
        "shown": run.typical_step,
        "left_out": len({span.step for span in run.measured.spans}) - len(keep),
    }


def _first_step(timeline: Timeline) -> Timeline:
    return timeline.step(min((span.step for span in timeline.spans), default=0))


def _kept_steps(run: RunData, budget: int) -> list[int]:
    """The typical step first, then others evenly spaced, as many as the budget allows."""
    steps = sorted({span.step for span in run.measured.spans})
    if not steps:
        return []
    each = max(1, len(run.measured.spans) // len(steps))
    room = max(1, budget // each)
    stride = max(1, -(-len(steps) // room))
    kept = set(steps[::stride][: max(0, room - 1)])
    if run.typical_step is not None:
        kept.add(run.typical_step)
    return sorted(kept)


def _lanes(spans: Sequence[Span], plan: Plan | None) -> list[dict[str, Any]]:
    """Rank by rank, compute first, then communication by name."""
    found = {(span.rank, span.lane) for span in spans}
    ordered = sorted(
        found, key=lambda key: (key[0], key[1] != COMPUTE_LANE, _weight(key[1]), key[1])
    )
    return [
        {
            "rank": rank,
            "name": lane,
            "label": _label(lane, rank),
            "transport": _transport(lane, plan),
            "node": _node(plan, rank),
            "stage": next((s.stage for s in plan.stages if rank in s.ranks), None)
            if plan
            else None,
        }
        for rank, lane in ordered
    ]


def _weight(lane: str) -> int:
    order = ("comm:pipeline", "comm:data", "comm:tied", "comm:world")
    return next((i for i, start in enumerate(order) if lane.startswith(start)), len(order))


def _group_of(lane: str) -> str:
    return lane.removeprefix("comm:").removesuffix(".down").removesuffix(".up")


def _label(lane: str, rank: int) -> str:
    """``to 2`` and ``from 2`` for a pipeline cut, else the axis of the group."""
    if lane == COMPUTE_LANE:
        return "compute"
    group = _group_of(lane)
    ends = group.removeprefix("pipeline.").split("-")
    if group.startswith("pipeline.") and len(ends) == 2 and str(rank) in ends:
        upper, lower = ends
        sends = (lane.endswith(".down")) == (str(rank) == upper)
        other = lower if str(rank) == upper else upper
        what = "activations" if lane.endswith(".down") else "gradients"
        return f"{what} {'to' if sends else 'from'} {other}"
    return {"data": "data group", "tied": "tied weights", "world": "all ranks"}.get(
        group.split(".")[0], group
    )


def _transport(lane: str, plan: Plan | None) -> str:
    if lane == COMPUTE_LANE:
        return ""
    group = plan.group_by_name.get(_group_of(lane)) if plan else None
    return group.transport.name if group else "unknown"


def _node(plan: Plan | None, rank: int) -> str:
    if plan is None or rank >= plan.world_size:
        return ""
    return Topology(plan.site).devices[plan.rank_map[rank]].node.name


def _folded(plan: Plan | None) -> list[int]:
    """With more than eight ranks: the first rank of each stage, shown until all are asked for."""
    if plan is None or plan.world_size <= 8:
        return []
    return list(dict.fromkeys(stage.ranks[0] for stage in plan.stages))


def _rows(timeline: Timeline, row: dict[tuple[int, str], int]) -> list[list[Any]]:
    wire = wire_starts(timeline.spans)
    return [
        [
            span.id,
            row[span.rank, span.lane],
            span.op,
            span.stage,
            span.microbatch,
            _us(span.start),
            _us(wire.get((span.step, span.id), span.start)),
            _us(span.stop),
            span.bytes,
        ]
        for span in timeline.spans
    ]


def _us(nanoseconds: int) -> int | float:
    value = round(nanoseconds / 1000, 1)
    return int(value) if value == int(value) else value


def gantt(runs: Sequence[RunData]) -> Html:
    """The frame that the page's script fills."""
    if not any(run.measured.spans or run.predicted.spans for run in runs):
        return section("schedule", "The schedule", "No spans were recorded: no schedule to draw.")
    key = tag(
        "ul",
        *(
            tag("li", tag("span", class_=f"swatch op-{op}"), op.replace("_", " "))
            for op in _computed(runs)
        ),
        tag("li", tag("span", class_="swatch wire"), "bytes moving, in the colour of the network"),
        tag("li", tag("span", class_="swatch waits"), "ready, waiting for a partner"),
        class_="legend",
    )
    controls = tag(
        "div",
        _toggle("predicted", any(run.predicted.spans for run in runs)),
        _toggle("measured", any(run.measured.spans for run in runs)),
        tag("label", "measured step ", tag("select", id="step"), class_="only-measured"),
        tag("label", tag("input", type="checkbox", id="all-ranks"), " all ranks", id="unfold"),
        tag(
            "span",
            tag("button", "−", id="out", aria_label="zoom out"),
            tag("button", "fit", id="fit"),
            tag("button", "+", id="in", aria_label="zoom in"),
            class_="zoom",
        ),
        class_="controls",
    )
    scale = " Both on the same time scale." if len(runs) > 1 else ""
    return section(
        "schedule",
        "One step, instruction by instruction",
        f"In each lane the thin upper row is predicted, the lower row measured.{scale} "
        "Drag to move, hold Ctrl and turn the wheel to zoom, point at a bar for its figures.",
        key,
        controls,
        tag("div", id="gantt"),
        tag("noscript", tag("p", "This picture needs the page's own script.", class_="empty")),
    )


def _computed(runs: Sequence[RunData]) -> list[str]:
    """What the ranks of these runs compute, in the order in which they first do."""
    spans = (span for run in runs for line in (run.predicted, run.measured) for span in line.spans)
    return list(dict.fromkeys(span.op for span in spans if span.lane == COMPUTE_LANE))


def _toggle(source: str, there: bool) -> Html:
    box = tag("input", type="checkbox", id=f"show-{source}", checked=there, disabled=not there)
    return tag("label", box, f" {source}" + ("" if there else " (not recorded)"))
