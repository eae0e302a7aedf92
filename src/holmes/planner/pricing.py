"""Seconds of a draft: closed form to rank many, event simulation to decide among few."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from holmes.cost.axes import filled_share, weight_gradient_seconds
from holmes.cost.model import CostModel
from holmes.events.span import Timeline
from holmes.plan.layout import ScheduleName
from holmes.plan.program import program_of
from holmes.planner.draft import SIMULATED_AS, Draft
from holmes.planner.times import pipeline_times
from holmes.planner.warmup import Extras
from holmes.schedule import Schedule, gpipe, one_f_one_b
from holmes.simulate.events import simulate
from holmes.simulate.recurrence import pipeline_seconds

GENERATED: frozenset[ScheduleName] = frozenset({"1f1b", "gpipe"})
"""Schedules whose instruction lists exist, so that events can be simulated."""
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
    _known: dict[tuple[object, ...], float] = field(default_factory=dict)
    _quick: dict[tuple[object, ...], float] = field(default_factory=dict)
    _events: dict[tuple[object, ...], float] = field(default_factory=dict)

    def quick_seconds(self, draft: Draft) -> float:
        """The closed form; what a schedule gains on 1F1B is taken off its fill."""
        key = _key(draft)
        if key not in self._quick:
            self.evaluated += 1
            self._quick[key] = max(0.0, self._recurrence(draft) - _gain(draft))
        return self._quick[key]

    def _recurrence(self, draft: Draft) -> float:
        """The recurrence; a long step is two short ones and the rest in proportion.

        A pipeline settles: once full, each further round of micro-batches adds the same
        (the recurrence is max-plus linear), so steps of two lengths tell all longer ones.
        """
        choice = replace(draft.choice, virtual_stages=1)
        name = SIMULATED_AS.get(draft.schedule, draft.schedule)
        key = (*_key(draft)[:2], replace(choice, schedule=name), *_key(draft)[3:])
        if key not in self._known:
            times = pipeline_times(draft, self.norms)
            overlap = draft.settings.overlap

            def seconds(microbatches: int) -> float:
                schedule = schedule_for(draft, microbatches)
                return float(pipeline_seconds(schedule, times, overlap=overlap))

            stages, all_ = draft.shape.layout.pp, draft.shape.microbatches
            short = short_length(draft)
            if all_ <= short + 2 * stages:
                self._known[key] = seconds(all_)
            else:
                less, more = seconds(short), seconds(short + stages)
                self._known[key] = less + (more - less) / stages * (all_ - short)
        return self._known[key]

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
        return simulate(plan, draft.estimates.cost, program_of(plan, check=False))


def short_length(draft: Draft) -> int:
    """Micro-batches after which a pipeline has settled."""
    return (SETTLED + 1) * draft.shape.layout.pp + 2 * (1 + max(draft.extras, default=0))


def work_of(draft: Draft) -> int:
    """Actions that one price of a draft walks through."""
    stages, all_ = draft.shape.layout.pp, draft.shape.microbatches
    return 2 * stages * min(all_, 2 * short_length(draft) + stages)


def simulable(draft: Draft) -> bool:
    """Whether a plan is small and plain enough for the event simulator."""
    shape = draft.shape
    if draft.schedule not in GENERATED:
        return False
    return shape.layout.devices * shape.microbatches * OPERATIONS <= LARGEST_SIMULATION


def schedule_for(draft: Draft, microbatches: int) -> Schedule:
    """The schedule that a draft is simulated as, with this many micro-batches."""
    stages = draft.shape.layout.pp
    if SIMULATED_AS.get(draft.schedule, draft.schedule) == "gpipe":
        return gpipe(stages, microbatches)
    return one_f_one_b(stages, microbatches, draft.extras)


def _gain(draft: Draft) -> float:
    """Seconds by which the schedule's fill and drain is shorter than 1F1B's, less its traffic."""
    choice, estimates = draft.choice, draft.estimates
    slowest = max(draft.stage_seconds)
    fill = sum(draft.stage_seconds) - slowest
    if choice.schedule == "zero-bubble":
        return min(fill, sum(_weight_gradients(draft)[1:]))
    kept = filled_share(choice.schedule, choice.virtual_stages)
    if kept == 1.0:
        return 0.0
    v = choice.virtual_stages
    period = max(slowest, max(estimates.cut_seconds), round_trip(draft))
    looped = max(
        v * max(estimates.cut_seconds),
        (v - 1) * estimates.ground.wrap.seconds(estimates.boundary, 1),
    )
    return (1 - kept) * fill - draft.shape.microbatches * max(0.0, looped - period)


def round_trip(draft: Draft) -> float:
    """Seconds a micro-batch for which 1F1B waits on its round trips; see the survey."""
    stages, microbatches = draft.shape.layout.pp, draft.shape.microbatches
    if SIMULATED_AS.get(draft.schedule) == "gpipe":
        return 0.0
    worst, trip = 0.0, 0.0
    for stage in reversed(range(stages)):
        trip += draft.stage_seconds[stage]
        if stage < stages - 1:
            trip += 2 * draft.estimates.cut_seconds[stage]
        flight = stages - stage + sum(draft.extras[stage:])
        if flight < microbatches:
            worst = max(worst, trip / flight)
    return worst


def _weight_gradients(draft: Draft) -> list[float]:
    costs = draft.estimates.stage_costs((0,) * len(draft.borders))
    found = []
    for stage, blocks in enumerate(draft.borders):
        forward, backward = (
            costs.forward_seconds(stage, *blocks),
            costs.backward_seconds(stage, *blocks),
        )
        again = forward if draft.recompute == "full" else 0.0
        found.append(weight_gradient_seconds(forward, backward - again))
    return found


def _key(draft: Draft) -> tuple[object, ...]:
    extras: Extras = draft.extras
    return (draft.shape, draft.rank_map, draft.choice, draft.borders, extras)
