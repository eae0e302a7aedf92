"""What the plan decided and why: choices side by side, groups, explanation, what was rejected."""

from __future__ import annotations

from collections.abc import Sequence

from holmes.plan import Group, Plan
from holmes.plan.diff import diff
from holmes.report import units
from holmes.report.parts.html import Html, section, tag
from holmes.report.parts.traffic import label_of
from holmes.report.run_data import RunData

MOST_GROUPS = 24
MOST_REJECTED = 12


def why(runs: Sequence[RunData]) -> Html | None:
    """What differs between the first plan and the others; None for a single run."""
    plans = [(run.name, run.plan) for run in runs if run.plan]
    if len(plans) < 2:
        return None
    columns = [_choices(plan) for _, plan in plans]
    rows = []
    for key in columns[0]:
        values = [column[key] for column in columns]
        style = "differs" if len(set(values)) > 1 else None
        rows.append(tag("tr", tag("th", key), *(tag("td", v) for v in values), class_=style))
    header = tag("tr", tag("th", ""), *(tag("th", name) for name, _ in plans))
    table = tag("table", tag("thead", header), tag("tbody", *rows), class_="choices")
    reasons = [
        tag(
            "div",
            tag("h3", f"against {name}") if len(plans) > 2 else None,
            _reasons(plans[0][1], other),
        )
        for name, other in plans[1:]
    ]
    ran = any(run.step_seconds for run in runs)
    return section(
        "why",
        f"What {plans[0][0]} does differently" if ran else "How the plans differ",
        "What the plans decide, like for like; rows in bold are where they part.",
        tag(
            "div",
            tag("div", *reasons, class_="columns" if len(plans) > 2 else None),
            tag("div", table, class_="scroll"),
            class_="columns" if len(plans) == 2 else None,
        ),
    )


def _reasons(plan: Plan, other: Plan) -> Html:
    """The differences as the plan tells them: a sentence, then a list."""
    first, *rest = diff(plan, other)
    return tag(
        "div",
        tag("p", first, class_="because"),
        tag("ul", *(tag("li", line) for line in rest), class_="reasons"),
    )


def _choices(plan: Plan) -> dict[str, str]:
    extra = plan.schedule.extra_warmup_per_cut or plan.schedule.extra_warmup
    return {
        "rank order": plan.order,
        "device of each rank": _several([str(device) for device in plan.rank_map]),
        "transport": plan.transport,
        "partition rule": plan.partition,
        "blocks per stage": _several([str(s.blocks[1] - s.blocks[0]) for s in plan.stages]),
        "reduction under backward": "yes" if plan.overlap else "no",
        "schedule": plan.schedule.name,
        "extra warm-up": str(max(extra, default=0) if isinstance(extra, tuple) else extra),
        "predicted step": units.seconds(plan.predicted.step_seconds),
        "idle in the pipeline": f"{100 * plan.predicted.bubble_fraction:.0f} %",
    }


def _several(values: Sequence[str], most: int = 16) -> str:
    return ", ".join(values[:most]) + (" …" if len(values) > most else "")


def plan_section(runs: Sequence[RunData]) -> Html | None:
    """Explanation, groups and rejected layouts of each plan."""
    plans = [(run.name, run.plan) for run in runs if run.plan]
    if not plans:
        return None
    blocks: list[Html] = []
    for i, (name, plan) in enumerate(plans):
        body = (_explanation(plan), _groups(plan), _rejected(plan))
        if len(plans) > 1:
            blocks.append(tag("details", tag("summary", name), *body, open=i == 0))
        else:
            blocks += [part for part in body if part is not None]
    return section("plan", "The plan in words", None, *blocks)


def _explanation(plan: Plan) -> Html | None:
    lines = [tag("li", line) for line in plan.explain]
    return tag("ul", *lines, class_="reasons") if lines else None


def _groups(plan: Plan) -> Html:
    shown = sorted(plan.groups, key=lambda group: -group.bytes_per_step)[:MOST_GROUPS]
    titles = ("group", "ranks", "network", "interfaces", "bytes per step")
    header = tag(
        "tr", *(tag("th", title, class_="num" if "bytes" in title else None) for title in titles)
    )
    body = tag("tbody", *(_group(group) for group in shown))
    hidden = len(plan.groups) - len(shown)
    return tag(
        "div",
        tag("table", tag("thead", header), body),
        tag("p", f"{hidden} smaller groups are not shown.", class_="note") if hidden else None,
        class_="scroll",
    )


def _group(group: Group) -> Html:
    fabric = group.transport.name
    names = sorted({name for names in group.interfaces.values() for name in names})
    return tag(
        "tr",
        tag("td", group.name),
        tag("td", _several([str(rank) for rank in group.ranks], 8)),
        tag("td", tag("span", class_=f"swatch t-{fabric}"), label_of(fabric)),
        tag("td", _several(names, 6)),
        tag("td", units.bytes_(group.bytes_per_step), class_="num"),
    )


def _rejected(plan: Plan) -> Html | None:
    if not plan.rejected:
        return None
    rows = [
        tag(
            "tr",
            tag("td", lost.layout),
            tag("td", units.seconds(lost.step_seconds) if lost.step_seconds else "", class_="num"),
            tag("td", lost.reason),
        )
        for lost in plan.rejected[:MOST_REJECTED]
    ]
    found = plan.search
    lead = (
        f"{found.enumerated} layouts were enumerated, {found.pruned} dropped early, "
        f"{found.evaluated} evaluated, {found.feasible} feasible."
    )
    header = tag("tr", tag("th", "rejected"), tag("th", "step"), tag("th", "because"))
    table = tag("table", tag("thead", header), tag("tbody", *rows))
    return tag("div", tag("p", lead, class_="note"), table, class_="scroll")
