"""One sentence on why one plan beats another, for a reader with ten seconds."""

from __future__ import annotations

from holmes.plan import Plan
from holmes.report import units
from holmes.report.parts.traffic import label_of


def because(plan: Plan, other: Plan) -> str | None:
    """What a faster plan does that the other does not, most telling first; None without any."""
    told = [
        reason for reason in (_networks(plan, other), _overlap(plan, other)) if reason is not None
    ]
    if plan.order != other.order and plan.rank_map != other.rank_map:
        told.append(f"ranks stand in {plan.order} order instead of {other.order} order")
    cuts = [[stage.blocks for stage in each.stages] for each in (plan, other)]
    if cuts[0] != cuts[1]:
        told.append("stages are cut to the speed of their devices and networks")
    if not told:
        return None
    if len(told) == 1:
        return f"Because {told[0]}."
    return f"Because {', '.join(told[:-1])}, and {told[-1]}."


def _networks(plan: Plan, other: Plan) -> str | None:
    """Where the gradients of replicas travel, if not over the same networks."""
    mine, theirs = _exchange(plan), _exchange(other)
    if not mine or not theirs or set(mine) == set(theirs):
        return None
    return (
        f"its replicas exchange gradients over {_kinds(mine)} instead of {_kinds(theirs)} "
        f"({units.bytes_(sum(mine.values()))} a step)"
    )


def _exchange(plan: Plan) -> dict[str, int]:
    found: dict[str, int] = {}
    for group in plan.groups:
        if group.axis == "data":
            name = group.transport.name
            found[name] = found.get(name, 0) + group.bytes_per_step
    return found


def _kinds(found: dict[str, int]) -> str:
    names = [label_of(name) for name in sorted(found, key=lambda name: -found[name])]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _overlap(plan: Plan, other: Plan) -> str | None:
    if plan.overlap and not other.overlap and any(group.axis == "data" for group in plan.groups):
        return "the exchange runs under the backward instead of after it"
    return None
