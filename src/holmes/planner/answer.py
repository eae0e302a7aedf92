"""The whole answer to `holmes plan`: the plan to run, the best there is, and what lost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from holmes.errors import ConfigError
from holmes.plan.plan import Plan
from holmes.planner.meshes import plan_meshes
from holmes.planner.missing import missing_for
from holmes.planner.offers import Offer, front, top
from holmes.planner.request import PlanRequest
from holmes.planner.search import TIE, Scored, Search, or_meshes
from holmes.planner.subsites import Sized, cheapest, smallest

Objective = Literal["time", "devices", "cost"]


@dataclass(frozen=True)
class Wanted:
    """What to answer besides the plan.

    Attributes:
        top: how many of the best candidates to list.
        objective: ``time``; ``devices``, the fewest that make a step in
            ``target_seconds``; ``cost``, the least per token.
        reasons: say of each candidate which parts of its step are longer.
        exhaustive: score also what a bound rules out, so that the front is complete.
    """

    top: int = 10
    objective: Objective = "time"
    target_seconds: float | None = None
    exhaustive: bool = False
    reasons: bool = True


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        plan: the plan the runtime can run; the best there is where it can run none.
        best: the best plan without the runtime's limits (often ``plan``).
        missing: what the runtime lacks for ``best``, the gain first.
        top, front: the best candidates, and those beaten in neither time nor memory.
        runnable: whether the runtime can run ``plan``.
        sized: the part of the site that was chosen, unless the objective is time.
    """

    plan: Plan
    best: Plan
    missing: tuple[str, ...]
    top: tuple[Offer, ...]
    front: tuple[Offer, ...]
    sized: Sized | None = None
    runnable: bool = False


def answer(request: PlanRequest, wanted: Wanted) -> Answer:
    """Plan within the runtime's limits and without.

    Raises:
        ConfigError: no plan exists at all, or none meets the objective.
    """
    if request.wishes.meshes:
        plan = plan_meshes(request)
        return Answer(plan, plan, (), (), (), runnable=True)
    request, part = _on_part(request, wanted)
    free = Search(
        replace(request, capabilities=None),
        exhaustive=wanted.exhaustive,
        narrow=request.capabilities,
    )
    free_best = free.winner()
    runnable = _runnable(request, free)
    seconds = runnable[1].seconds if isinstance(runnable, tuple) else math.inf
    faster = free_best.seconds < seconds * (1 - TIE)
    if isinstance(runnable, tuple):
        free.request = replace(free.request, largest_lists=0, note=faster and request.note)
        free_best = free.with_found(free_best, runnable[1])
    there_is = free.finished(free_best)
    listed = tuple(top(free, free_best, wanted.top, reasons=wanted.reasons))
    others = tuple(front(free.field))
    if not isinstance(runnable, tuple) or request.capabilities is None:
        plan = there_is
        if isinstance(runnable, ConfigError):
            note = f"this runtime cannot run it yet: {runnable.what}"
            plan = replace(plan, explain=(*plan.explain, note))
        return Answer(plan, plan, (), listed, others, part)
    missing = missing_for(there_is, request.capabilities, seconds) if faster else ()
    plan = runnable[0].finished(runnable[1], missing)
    plan = replace(plan, search=plan.search + there_is.search)
    unequal = or_meshes(request, lambda: plan)
    if unequal.predicted.step_seconds < there_is.predicted.step_seconds:
        return Answer(unequal, unequal, (), listed, others, part, True)
    return Answer(unequal, there_is if faster else unequal, missing, listed, others, part, True)


def _runnable(request: PlanRequest, free: Search) -> tuple[Search, Scored] | ConfigError | None:
    """The search within the runtime's limits and its winner, or why there is none."""
    if request.capabilities is None:
        return None
    try:
        search = Search(request, basis=free)
        return search, search.winner()
    except ConfigError as error:
        return error


def _on_part(request: PlanRequest, wanted: Wanted) -> tuple[PlanRequest, Sized | None]:
    """The request on the part of the site that the objective chooses."""
    if wanted.objective == "time":
        return request, None
    free = replace(request, capabilities=None)
    if wanted.objective == "cost":
        found = cheapest(free)
    elif wanted.target_seconds is None:
        raise ConfigError(
            "the objective `devices` needs a deadline",
            where="--objective devices",
            next_step="add --target SECONDS, the longest a step may take",
        )
    else:
        found = smallest(free, wanted.target_seconds)
    return replace(request, site=found.site), found
