"""The last step of a search: move stage borders and warm-up while the simulator says faster."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from holmes.planner.draft import Draft
from holmes.planner.partition import Borders, objective
from holmes.planner.pricing import Pricing, simulable
from holmes.planner.warmup import settle
from holmes.schedule.generate import WITH_WARMUP

WORTH = 0.002
"""A move must save this fraction of the step: below it predictions are equal."""
ROUNDS = 4
NEAR_OBJECTIVE = 1.3
"""With two stages every cut is tried whose closed-form objective is within this of the best."""


def refine(draft: Draft, pricing: Pricing) -> Draft:
    """A draft that no border moved by one block, and no other warm-up, makes faster."""
    settled = refine_warmup(draft, pricing)
    cut = _refine_borders(settled, pricing)
    return cut if cut.borders == settled.borders else refine_warmup(cut, pricing)


def neighbours(borders: Borders) -> Iterable[Borders]:
    """All partitions with one border moved by one block, no stage left empty."""
    for index in range(len(borders) - 1):
        (start, cut), (_, stop) = borders[index], borders[index + 1]
        for moved in (cut - 1, cut + 1):
            if start < moved < stop:
                yield (
                    *borders[:index],
                    (start, moved),
                    (moved, stop),
                    *borders[index + 2 :],
                )


def _refine_borders(draft: Draft, pricing: Pricing) -> Draft:
    if draft.settings.partition != "exact" or len(draft.borders) == 1:
        return draft
    if len(draft.borders) == 2:
        return _better(draft, _every_near_cut(draft), pricing)
    if len(set(draft.estimates.ground.patterns)) == 1 and not simulable(draft):
        return draft  # equal stages without events to see: the exact cut stands
    for _ in range(ROUNDS):
        moved = _better(draft, neighbours(draft.borders), pricing)
        if moved is draft:
            break
        draft = moved
    return draft


def _better(draft: Draft, cuts: Iterable[Borders], pricing: Pricing) -> Draft:
    """The fastest of these cuts, or the draft itself."""
    best, seconds = draft, pricing.seconds(draft)
    for borders in cuts:
        other = draft.with_cut(borders)
        if other.fits() and pricing.seconds(other) < seconds * (1 - WORTH):
            best, seconds = other, pricing.seconds(other)
    return best


def _every_near_cut(draft: Draft) -> list[Borders]:
    (start, _), (_, stop) = draft.borders
    costs = draft.estimates.stage_costs((0, 0))
    limit = NEAR_OBJECTIVE * objective(costs, draft.borders)
    cuts: list[Borders] = [((start, cut), (cut, stop)) for cut in range(start + 1, stop)]
    near = [cut for cut in cuts if objective(costs, cut) <= limit]
    return near if math.isfinite(limit) else []


def refine_warmup(draft: Draft, pricing: Pricing) -> Draft:
    """The draft with the smallest warm-up that the simulator cannot improve by 1 %."""
    if draft.schedule not in WITH_WARMUP or not draft.extras:
        return draft
    if draft.request.wishes.extra_warmup is not None:
        return draft
    seconds: Callable[[tuple[int, ...]], float] = lambda e: pricing.seconds(draft.with_warmup(e))  # noqa: E731
    extras = settle(
        draft.extras,
        seconds,
        lambda extras: draft.with_warmup(extras).fits(),
        draft.shape.microbatches - 1,
    )
    return draft.with_warmup(extras)
