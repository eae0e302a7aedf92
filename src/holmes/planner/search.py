"""Site + workload + wishes -> Plan.

Every layout, placement, micro-batch size, recomputation and schedule is drafted
with the closed rules (partition, warm-up) and priced by the closed form; the
best few are priced by the event simulator, and the winner is refined by it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from holmes.cost.model import CostModel
from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.plan.layout import ScheduleName
from holmes.plan.plan import Plan, Rejected, SearchSummary
from holmes.planner.candidates import Shape, enumerate_shapes
from holmes.planner.draft import Draft, draft
from holmes.planner.estimates import Estimates
from holmes.planner.finish import finish
from holmes.planner.missing import missing_for
from holmes.planner.placement import rank_maps
from holmes.planner.pricing import Pricing
from holmes.planner.refine import refine, refine_warmup
from holmes.planner.request import PlanRequest
from holmes.planner.settings import Settings, settings_of

FINALISTS = 2
"""Drafts of each schedule that the event simulator compares."""
TIE = 0.005
"""Predictions nearer than this fraction are a tie, which the earlier draft wins."""
DOUBT = 0.05
"""How far the partition's objective may lie above what the simulator would say."""
MOST_PRICED = 48
"""Drafts priced by the closed form, in order of their objective."""
MOST_REJECTED = 10


@dataclass(frozen=True)
class Plans:
    """The plan to run, and the best one if the runtime could do everything.

    ``missing`` says what the runtime lacks for ``unrestricted``; it is empty, and
    ``unrestricted`` None, when the plan to run is the best there is.
    """

    plan: Plan
    unrestricted: Plan | None = None
    missing: tuple[str, ...] = ()


def make_plan(request: PlanRequest) -> Plan:
    """The fastest plan that fits, within the request's capabilities.

    Raises:
        ConfigError: when no plan exists: the wishes contradict the site, the
            batch or the model, or nothing fits in memory.
    """
    return _Search(request).run()


def make_plans(request: PlanRequest) -> Plans:
    """The plan to run and, where it is faster, the best plan without the runtime's limits.

    Raises:
        ConfigError: as :func:`make_plan`.
    """
    if request.capabilities is None:
        return Plans(make_plan(request))
    search = _Search(request)
    best = search.winner()
    wider = _Search(request.unrestricted())
    unrestricted = wider.winner()
    if unrestricted.seconds >= best.seconds * (1 - TIE):
        return Plans(search.finished(best))
    other = wider.finished(unrestricted)
    missing = missing_for(other, request.capabilities, best.seconds)
    return Plans(search.finished(best, missing), other, missing)


@dataclass(frozen=True)
class Scored:
    """A draft and its predicted step time."""

    draft: Draft
    seconds: float


@dataclass
class _Counts:
    enumerated: int = 0
    pruned: int = 0
    feasible: int = 0


@dataclass
class _Search:
    """One search; its lists grow as it runs."""

    request: PlanRequest
    counts: _Counts = field(default_factory=_Counts)
    rejected: list[Rejected] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    losers: list[Scored] = field(default_factory=list)
    waiting: list[Draft] = field(default_factory=list)
    best: float = math.inf

    def __post_init__(self) -> None:
        self.started = time.process_time()
        request = self.request
        self.topology = Topology(request.site)
        self.settings: Settings = settings_of(request.wishes, request.capabilities)
        self.cost = CostModel(self.topology, request.workload, request.calibration, request.rates)
        self.pricing = Pricing(self.cost)

    def run(self) -> Plan:
        return self.finished(self.winner())

    def winner(self) -> Scored:
        """The refined best draft.

        Raises:
            ConfigError: when nothing fits.
        """
        self._survey()
        if not self.scored:
            raise self._nothing_fits()
        ranking = sorted(self.scored, key=lambda scored: scored.seconds)
        finalists = [self._finalist(scored.draft) for scored in self._finalists(ranking)]
        least = min(scored.seconds for scored in finalists)
        # The first schedule holds the fewest activations: it wins near ties.
        chosen = next(scored for scored in finalists if scored.seconds <= least * (1 + TIE))
        refined = refine(chosen.draft, self.pricing)
        best = Scored(refined, self.pricing.seconds(refined))
        self.losers = [scored for scored in finalists if scored is not chosen]
        known = {str(scored.draft) for scored in finalists}
        self.losers += [scored for scored in ranking if str(scored.draft) not in known]
        return best

    def _finalists(self, ranking: list[Scored]) -> list[Scored]:
        """The best few of each schedule, in order of preference of the schedules."""
        return [
            scored
            for schedule in self.settings.schedules
            for scored in [one for one in ranking if one.draft.schedule == schedule][:FINALISTS]
        ]

    def _finalist(self, draft: Draft) -> Scored:
        """A draft with its warm-up settled, priced by the simulator."""
        settled = refine_warmup(draft, self.pricing)
        return Scored(settled, self.pricing.seconds(settled))

    def finished(self, best: Scored, missing: tuple[str, ...] = ()) -> Plan:
        """The complete plan of the winner."""
        summary = SearchSummary(
            enumerated=self.counts.enumerated,
            pruned=self.counts.pruned,
            evaluated=self.pricing.evaluated,
            feasible=self.counts.feasible,
            cpu_seconds=round(time.process_time() - self.started, 4),
        )
        return finish(best.draft, self.pricing, summary, self._rejected(best), missing)

    def _survey(self) -> None:
        """Draft and price everything that a lower bound does not rule out."""
        found = enumerate_shapes(self.request, self.settings, self.topology)
        for loser in found.rejected:
            self._rule_out(loser.layout, loser.reason)
        todo: list[list[Estimates]] = []
        for shape in found.shapes:
            try:
                maps = rank_maps(
                    self.topology, shape.layout, self.settings.order, self.request.wishes.rank_map
                )
            except ConfigError as error:
                self._rule_out(str(shape), error.what)
                continue
            for ranks in maps:
                modes = [
                    Estimates(self.cost, self.settings, shape, ranks, recompute)
                    for recompute in self.settings.recomputes
                ]
                todo.append(modes)
        for modes in sorted(todo, key=lambda modes: modes[0].least_seconds):
            for schedule in self._schedules(modes[0].shape):
                self._consider(modes, schedule)
        self._price_waiting()

    def _schedules(self, shape: Shape) -> tuple[ScheduleName, ...]:
        """The schedules worth a draft: with one stage or one micro-batch all are the same."""
        alike = shape.layout.pp == 1 or shape.microbatches == 1
        return self.settings.schedules[:1] if alike else self.settings.schedules

    def _consider(self, modes: list[Estimates], schedule: ScheduleName) -> None:
        """Draft a shape under one schedule, with the lightest recomputation that fits."""
        name = f"{modes[0].shape}, {schedule}"
        if modes[0].least_seconds > self.best:
            ratio = modes[0].least_seconds / self.best
            self._rule_out(name, f"its compute alone takes {ratio:.2f} times the best plan")
            return
        reason = ""
        for estimates in modes:
            limit = self.best * (1 + DOUBT)
            try:
                made = draft(self.request, self.settings, estimates, schedule, limit)
            except ConfigError as error:
                reason = error.what
                break
            if isinstance(made, str):
                reason = made
                continue
            self.counts.enumerated += 1
            self.counts.feasible += 1
            if self.waiting and made.least_seconds >= self.waiting[0].least_seconds:
                self.waiting.append(made)
            else:
                # A new favourite: its price bounds what is worth drafting.
                self.waiting.insert(0, made)
                self._price(made)
            return
        self._rule_out(name, reason)

    def _price(self, made: Draft) -> None:
        self.scored.append(Scored(made, self.pricing.quick_seconds(made)))
        self.best = min(self.best, self.scored[-1].seconds)

    def _price_waiting(self) -> None:
        """Price what was drafted, most promising first, until the rest cannot win."""
        done = {id(scored.draft) for scored in self.scored}
        for made in sorted(self.waiting, key=lambda made: made.least_seconds):
            if id(made) in done:
                continue
            if made.least_seconds > self.best * (1 + DOUBT):
                ratio = made.least_seconds / self.best
                reason = f"even with free cuts {ratio:.2f} times the best plan"
            elif len(self.scored) >= MOST_PRICED:
                reason = f"{MOST_PRICED} more promising ones were priced"
            else:
                self._price(made)
                continue
            self.rejected.append(Rejected(str(made), reason))

    def _rule_out(self, what: str, why: str) -> None:
        self.counts.enumerated += 1
        self.counts.pruned += 1
        self.rejected.append(Rejected(what, why))

    def _rejected(self, best: Scored) -> tuple[Rejected, ...]:
        """The nearest losers first, then what was ruled out."""
        priced = [
            Rejected(
                str(scored.draft),
                f"predicted {scored.seconds / best.seconds:.2f} times the chosen step",
                scored.seconds,
            )
            for scored in self.losers[: MOST_REJECTED // 2 + MOST_REJECTED % 2]
        ]
        room = MOST_REJECTED - len(priced)
        ruled_out = list({(r.layout, r.reason): r for r in self.rejected}.values())
        return (*priced, *ruled_out[:room])

    def _nothing_fits(self) -> ConfigError:
        reasons = list(dict.fromkeys(f"{r.layout}: {r.reason}" for r in self.rejected))
        return ConfigError(
            f"no plan of {self.request.workload.name} fits site {self.request.site.name!r}",
            where="parallel, batch.micro",
            why="; ".join(reasons[:3]),
            next_step="use more or larger devices, a smaller batch.micro, parallel.recompute=full, "
            "or leave more of `parallel` to the planner",
        )
