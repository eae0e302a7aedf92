"""Seconds of a draft: closed form to rank many, event simulation to decide among few."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from holmes.cost.model import CostModel
from holmes.events.span import Timeline
from holmes.plan.program import program_of
from holmes.planner.draft import Draft
from holmes.planner.times import pipeline_times
from holmes.planner.warmup import Extras
from holmes.schedule.generate import generate
from holmes.schedule.instruction import Schedule
from holmes.simulate.events import simulate
from holmes.simulate.recurrence import pipeline_seconds

LARGEST_SIMULATION = 20_000
"""Instructions beyond which a plan is priced by the closed form alone."""
OPERATIONS = 6
"""Instructions per rank and micro-batch: two computations and up to four transfers."""
SETTLED = 3
"""Pipelines' worth of micro-batches after which every further one takes the same time."""


@dataclass
class Pricing:
    """Prices drafts under one cost model and remembers them.

    ``norms``: seconds of the all-reduce of squared norms, the same for all drafts.
    """

    cost: CostModel
    norms: float = 0.0
    evaluated: int = 0
    _quick: dict[tuple[object, ...], float] = field(default_factory=dict)
    _events: dict[tuple[object, ...], float] = field(default_factory=dict)

    def again(self) -> Pricing:
        """The same prices, counted anew."""
        return Pricing(self.cost, self.norms, 0, self._quick, self._events)

    def quick_seconds(self, draft: Draft) -> float:
        """The recurrence; a long step is two short ones and the rest in proportion.

        A pipeline settles: once full, each further round of micro-batches adds the same
        (the recurrence is max-plus linear), so steps of two lengths tell all longer ones.
        Before that warm-up may hide part of the slowest rank's work, so each further
        micro-batch takes at least that work.
        """
        key = _key(draft)
        if key not in self._quick:
            self.evaluated += 1
            times = pipeline_times(draft, self.norms)
            overlap = draft.settings.overlap

            def seconds(microbatches: int) -> float:
                schedule = schedule_for(draft, microbatches)
                return float(pipeline_seconds(schedule, times, overlap=overlap))

            stages, all_ = draft.shape.layout.pp, draft.shape.microbatches
            short = short_length(draft)
            if all_ <= short + 2 * stages:
                self._quick[key] = seconds(all_)
            else:
                less, more = seconds(short), seconds(short + stages)
                each = max((more - less) / stages, *draft.rank_seconds)
                self._quick[key] = more + each * (all_ - short - stages)
        return self._quick[key]

    def seconds(self, draft: Draft) -> float:
        """The event simulator, or the closed form for a plan beyond it."""
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
        plan = draft.priced
        return simulate(plan, draft.estimates.listed_cost, program_of(plan, check=False))


def short_length(draft: Draft) -> int:
    """Micro-batches after which a pipeline has settled, in whole rounds of its stages."""
    stages = draft.shape.layout.pp
    more = 2 * (1 + max(draft.extras, default=0))
    return (SETTLED + 1 + math.ceil(more / stages)) * stages


def work_of(draft: Draft) -> int:
    """Actions that one price of a draft walks through."""
    stages, all_ = draft.shape.layout.pp, draft.shape.microbatches
    return 2 * len(draft.borders) * min(all_, 2 * short_length(draft) + stages)


def simulable(draft: Draft) -> bool:
    """Whether a plan is small enough for the event simulator."""
    return instructions_of(draft) <= LARGEST_SIMULATION


def instructions_of(draft: Draft) -> int:
    """About how many instructions all ranks run in a step."""
    stages = draft.shape.layout.devices * draft.choice.virtual_stages
    return stages * draft.shape.microbatches * OPERATIONS


def schedule_for(draft: Draft, microbatches: int) -> Schedule:
    """The schedule of a draft, with this many micro-batches."""
    choice, stages = draft.choice, draft.shape.layout.pp
    return generate(choice.schedule, stages, microbatches, choice.virtual_stages, draft.extras)


def _key(draft: Draft) -> tuple[object, ...]:
    extras: Extras = draft.extras
    return (draft.shape, draft.rank_map, draft.choice, draft.borders, extras)
