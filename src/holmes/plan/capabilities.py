"""Capabilities: what a runtime can do, as a value, and what of a plan lies beyond it."""

from __future__ import annotations

from dataclasses import dataclass

from holmes.plan.layout import ContextAlgorithm, Recompute, ScheduleName, Sharding
from holmes.plan.plan import Axis, Plan
from holmes.schedule.generate import FORMS


@dataclass(frozen=True)
class Capabilities:
    """What a runtime can do. A planner stays within it; the runtime refuses the rest.

    Attributes:
        axes: axes that may have a degree above one.
        virtual_stages: the most stages that one rank may hold.
        experts: whether layers may be mixtures of experts.
        sequence_parallel: whether tensor ranks can divide norms and activations too.
        unequal_stages: whether stages may differ in their degrees.
        context_algorithms: how attention may run over context ranks.
    """

    axes: frozenset[Axis]
    schedules: frozenset[ScheduleName]
    shardings: frozenset[Sharding]
    recompute: frozenset[Recompute]
    virtual_stages: int = 1
    experts: bool = False
    sequence_parallel: bool = False
    unequal_stages: bool = False
    context_algorithms: frozenset[ContextAlgorithm] = frozenset()


def refusals(plan: Plan, capabilities: Capabilities) -> list[str]:
    """One phrase for each thing in the plan that lies beyond the capabilities; empty is good."""
    layouts = [stage.layout for stage in plan.stages]
    degrees: tuple[tuple[Axis, int], ...] = (
        ("tensor", max(layout.tp for layout in layouts)),
        ("pipeline", plan.pp),
        ("data", max(layout.dp for layout in layouts)),
        ("context", max(layout.cp for layout in layouts)),
        ("expert", max(layout.ep for layout in layouts)),
    )
    found = [
        f"{axis} parallelism (degree {degree})"
        for axis, degree in degrees
        if degree > 1 and axis not in capabilities.axes
    ]
    for tp, cp in sorted({(layout.tp, layout.cp) for layout in layouts}):
        obstacle = plan.workload.tensor_obstacle(tp, cp)
        if obstacle is not None:
            found.append(f"tensor degree {tp} ({obstacle})")
        if cp == 1 or "context" not in capabilities.axes:
            continue
        if plan.context_algorithm not in capabilities.context_algorithms:
            found.append(f"context algorithm: {plan.context_algorithm}")
        obstacle = plan.workload.context_obstacle(plan.context_algorithm, tp, cp)
        if obstacle is not None:
            found.append(f"context degree {cp} ({obstacle})")
    if plan.layout is None and any(layout.cp > 1 for layout in layouts):
        found.append("context ranks in stages whose layouts differ")
    if len(set(layouts)) > 1 and not capabilities.unequal_stages:
        found.append("stages whose layouts differ")
    if plan.schedule.name not in capabilities.schedules:
        found.append(f"the schedule {plan.schedule.name}")
    if plan.schedule.virtual_stages > capabilities.virtual_stages:
        found.append(f"{plan.schedule.virtual_stages} virtual stages per rank")
    if plan.sequence_parallel and not capabilities.sequence_parallel:
        found.append("sequence parallelism")
    if plan.sharding not in capabilities.shardings:
        found.append(f"sharding: {plan.sharding}")
    if plan.tensor_chunks > 1 and FORMS[plan.schedule.name].splits_backward:
        found.append(f"tensor_chunks: {plan.tensor_chunks} with {plan.schedule.name}")
    if plan.recompute not in capabilities.recompute:
        found.append(f"recompute: {plan.recompute}")
    if plan.workload.experts and not capabilities.experts:
        found.append(f"mixtures of {plan.workload.experts} experts")
    return found
