"""Bytes that cross between clusters: the plan's formula, by link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holmes.hardware.topology import Topology
from holmes.plan import Plan
from holmes.report import units
from holmes.report.parts.bars import Piece, bar
from holmes.report.parts.html import Html, join, section, tag
from holmes.report.parts.traffic import label_of
from holmes.report.run_data import RunData

PAIR = 2


@dataclass(frozen=True)
class Crossing:
    """What one link carries in a step: bytes, whether that is an upper bound, groups.

    A group of two sends all of its bytes across. A larger one that spans the clusters sends
    some of them inside, so all of its bytes bound what crosses.
    """

    name: str
    fabric: str
    bytes_: int
    bound: bool
    groups: tuple[str, ...]


def crossings(plan: Plan) -> list[Crossing]:
    """Every link of the site with the groups that cross it."""
    topology = Topology(plan.site)
    cluster = [topology.devices[device].node.cluster for device in plan.rank_map]
    found: list[Crossing] = []
    for link in plan.site.links:
        ends = set(link.between)
        across = [
            group
            for group in plan.groups
            if group.transport.fabric is link.kind
            and group.bytes_per_step
            and ends <= {cluster[rank] for rank in group.ranks}
        ]
        found.append(
            Crossing(
                name=" and ".join(link.between),
                fabric=link.kind.value,
                bytes_=sum(group.bytes_per_step for group in across),
                bound=any(len(group.ranks) > PAIR for group in across),
                groups=tuple(group.name for group in across),
            )
        )
    return found


def between_clusters(runs: Sequence[RunData]) -> Html | None:
    """The section; None where no site has two clusters."""
    plans = [(run.name, crossings(run.plan)) for run in runs if run.plan and run.plan.site.links]
    if not plans:
        return None
    most = 1.04 * max((each.bytes_ for _, rows in plans for each in rows), default=0) or 1.0
    blocks = [
        tag(
            "div",
            tag("h3", name) if len(plans) > 1 else None,
            tag("div", *(_bar(each, most) for each in rows), class_="bars"),
        )
        for name, rows in plans
    ]
    return section(
        "crossings",
        "Bytes between clusters",
        "Payload per step over each link, both directions, by the plan's formula. A group of "
        "more than two ranks may send some of them inside a cluster: a bound.",
        tag("div", *blocks, class_="columns"),
    )


def _bar(each: Crossing, most: float) -> Html:
    bound = "at most " if each.bound else ""
    tip = f"{', '.join(each.groups) or 'no group'} cross between {each.name}"
    pieces = [Piece(each.bytes_ / most, f"t-{each.fabric}", tip)] if each.bytes_ else []
    label = join((each.name, tag("small", label_of(each.fabric))))
    return bar(label, f"{bound}{units.bytes_(each.bytes_)}", pieces, [], _groups(each))


def _groups(each: Crossing) -> str:
    count = len(each.groups)
    return "no group crosses" if not count else f"{count} group{'s' if count > 1 else ''}"
