"""Seconds of a draft: closed form to rank many, event simulation to decide among few."""

from __future__ import annotations

from dataclasses import dataclass, field

from holmes.cost.model import CostModel
from holmes.events.span import Timeline
from holmes.plan.program import program_of
from holmes.planner.draft import Draft
from holmes.planner.warmup import Extras
from holmes.simulate.closed_form import step_seconds
from holmes.simulate.events import simulate

LARGEST_SIMULATION = 20_000
"""Instructions beyond which a plan is priced by the closed form alone."""
OPERATIONS = 6
"""Instructions per rank and micro-batch: two computations and up to four transfers."""


@dataclass
class Pricing:
    """Prices drafts under one cost model and remembers them."""

    cost: CostModel
    evaluated: int = 0
    _events: dict[tuple[object, ...], float] = field(default_factory=dict)

    def quick_seconds(self, draft: Draft) -> float:
        """The closed form."""
        self.evaluated += 1
        return step_seconds(draft.plan, self.cost)

    def seconds(self, draft: Draft) -> float:
        """The event simulator, or the closed form for a plan too large for it."""
        key = _key(draft)
        if key not in self._events:
            if simulable(draft):
                self.evaluated += 1
                self._events[key] = self.timeline(draft).makespan * 1e-9
            else:
                self._events[key] = self.quick_seconds(draft)
        return self._events[key]

    def timeline(self, draft: Draft) -> Timeline:
        """The simulated step."""
        plan = draft.plan
        return simulate(plan, self.cost, program_of(plan, check=False))


def simulable(draft: Draft) -> bool:
    """Whether a plan is small enough for the event simulator."""
    shape = draft.shape
    stages = shape.layout.devices * draft.virtual_stages
    return stages * shape.microbatches * OPERATIONS <= LARGEST_SIMULATION


def _key(draft: Draft) -> tuple[object, ...]:
    extras: Extras = draft.extras
    return (draft.shape, draft.rank_map, draft.recompute, draft.schedule, draft.borders, extras)
