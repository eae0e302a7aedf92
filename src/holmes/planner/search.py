"""Site + workload + wishes -> Plan.

Every layout, micro-batch, placement and choice is scored at once
(:mod:`holmes.planner.survey`); the best scores are drafted with their exact
partition and warm-up and priced by the closed form until no score left can win;
the best few are priced by the event simulator, and the winner is refined by it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from holmes.cost.model import CostModel
from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.plan.capabilities import Capabilities
from holmes.plan.explain import layout_text
from holmes.plan.layout import Layout
from holmes.plan.plan import Plan, Rejected, SearchSummary
from holmes.planner.candidates import enumerate_layouts, name_of
from holmes.planner.draft import Draft, draft
from holmes.planner.estimates import Estimates
from holmes.planner.experience import Experience
from holmes.planner.field import DOUBT, Field, Row
from holmes.planner.finish import finish
from holmes.planner.ground import Ground
from holmes.planner.meshes import best_mesh, finished, plan_meshes, unequal
from holmes.planner.missing import missing_for
from holmes.planner.placement import distinct_maps, rank_maps
from holmes.planner.pricing import Pricing, work_of
from holmes.planner.refine import refine, refine_warmup
from holmes.planner.request import PlanRequest
from holmes.planner.settings import Settings, settings_of
from holmes.planner.shortage import nothing_fits
from holmes.schedule.generate import FORMS

FINALISTS = 2
"""Drafts of each schedule that the event simulator compares."""
TIE = 0.005
"""Predictions nearer than this fraction are a tie, which the earlier draft wins."""
SLACK = 1.01
"""A partition is first sought within this factor of its score."""
MOST_PRICED = 12
"""Drafts priced by the closed form, in order of their score."""
MOST_PASSED = 1_000
"""Scores passed over because their like were priced and lost."""
MOST_WORK = 150_000
"""Actions of pipelines walked through for prices; deep pipelines spend them fast."""
LARGEST_REFINED = 15_000
"""Actions of a price beyond which the closed rules' warm-up and cut stand."""
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
    if request.wishes.meshes:
        return plan_meshes(request)
    return or_meshes(request, lambda: Search(request).run())


def or_meshes(request: PlanRequest, rectangular: Callable[[], Plan]) -> Plan:
    """The plan of equal stages, or one of unequal ones where that is faster, or all there is."""
    if not unequal(request):
        return rectangular()
    cost = request.cost
    try:
        plan = rectangular()
    except ConfigError:
        best = best_mesh(request, cost)
        if best is None:
            raise
        return finished(best, SearchSummary(), ())
    seconds = plan.predicted.step_seconds
    best = best_mesh(request, cost, seconds * (1 - TIE))
    if best is None:
        return plan
    loser = Rejected(
        f"equal stages: {layout_text(plan)}",
        f"predicted {seconds / best.seconds:.2f} times the chosen step",
        seconds,
    )
    return finished(best, plan.search, (loser, *plan.rejected))


def make_plans(request: PlanRequest) -> Plans:
    """The plan to run and, where it is faster, the best plan without the runtime's limits.

    Raises:
        ConfigError: as :func:`make_plan`.
    """
    if request.capabilities is None or request.wishes.meshes:
        return Plans(make_plan(request))
    found = _both(request)
    if found.unrestricted is not None:
        return found
    return replace(found, plan=or_meshes(request, lambda: found.plan))


def _both(request: PlanRequest) -> Plans:
    """As :func:`make_plans`, all stages equal."""
    assert request.capabilities is not None
    wider = Search(
        replace(request, capabilities=None, note=False, largest_lists=0),
        narrow=request.capabilities,
    )
    unrestricted = wider.winner()
    search = Search(request, basis=wider)
    best = search.winner()
    effort = wider.summary()
    if unrestricted.seconds >= best.seconds * (1 - TIE):
        plan = search.finished(best)
        return Plans(replace(plan, search=plan.search + effort))
    other = wider.finished(unrestricted)
    missing = missing_for(other, request.capabilities, best.seconds)
    plan = search.finished(best, missing)
    return Plans(replace(plan, search=plan.search + effort), other, missing)


@dataclass(frozen=True)
class Scored:
    """A draft and its predicted step time."""

    draft: Draft
    seconds: float


@dataclass
class Search:
    """One search; its lists grow as it runs."""

    request: PlanRequest
    rejected: list[Rejected] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    losers: list[Scored] = field(default_factory=list)
    gap: float = 0.0
    exhaustive: bool = False
    """Score also what a bound on compute rules out, for lists and fronts."""
    basis: Search | None = None
    """A wider search of the same question that has ended: its scores and prices are read again."""
    narrow: Capabilities | None = None
    """Of a narrower search on the basis of this one: its best is found too."""
    grounds: dict[tuple[int, int], list[Ground]] = field(default_factory=dict)
    """What each rank map of (tp, pp) decides; replicas and context ranks share it."""

    def __post_init__(self) -> None:
        self.started = time.process_time()
        self.clock = time.monotonic()
        request = self.request
        if request.wishes.meshes:
            raise ConfigError(
                "degrees by stage leave one plan, nothing to list or to vary",
                where="parallel.tensor, parallel.data",
                next_step="plan without lists, sweeps and smaller sites, or give one degree",
            )
        self.settings: Settings = settings_of(request.wishes, request.capabilities)
        if self.basis is None:
            cost = request.cost
            self.field = Field.of(cost, self.settings, request.global_batch)
            self.pricing = Pricing(cost, self.field.survey.norms)
        else:
            cost, self.grounds = self.basis.cost, self.basis.grounds
            survey = replace(self.basis.field.survey, settings=self.settings)
            self.field = Field(survey)
            self.pricing = self.basis.pricing.again()
        self.field.exhaustive = self.exhaustive
        if self.narrow is not None:
            try:
                self.field.narrow = settings_of(request.wishes, self.narrow)
            except ConfigError:  # the narrower search says so itself
                self.field.narrow = None
        self.cost: CostModel = cost
        self.topology: Topology = cost.topology

    def run(self) -> Plan:
        return self.finished(self.winner())

    def winner(self) -> Scored:
        """The refined best draft.

        Raises:
            ConfigError: when nothing fits.
        """
        self.survey()
        self._price_best()
        if not self.scored:
            raise nothing_fits(self.request, self.settings, self.field, self.rejected)
        ranking = sorted(self.scored, key=lambda scored: scored.seconds)
        finalists = [self._finalist(scored.draft) for scored in self._finalists(ranking)]
        least = min(scored.seconds for scored in finalists)
        near = [scored for scored in finalists if scored.seconds <= least * (1 + TIE)]
        chosen = min(near, key=self._plainness)
        leave = self._late() or work_of(chosen.draft) > LARGEST_REFINED
        refined = chosen.draft if leave else refine(chosen.draft, self.pricing)
        best = Scored(refined, self.pricing.seconds(refined))
        self.losers = [scored for scored in finalists if scored is not chosen]
        known = {str(scored.draft) for scored in (*finalists, best)}
        self.losers += [scored for scored in ranking if str(scored.draft) not in known]
        return best

    def with_found(self, best: Scored, other: Scored) -> Scored:
        """The faster of this search's best and that of a narrower one; the first becomes a
        loser when it is slower."""
        if other.seconds >= best.seconds:
            return best
        self.losers.insert(0, best)
        made = replace(other.draft, request=self.request, settings=self.settings)
        self.losers = [one for one in self.losers if str(one.draft) != str(made)]
        return Scored(made, other.seconds)

    def survey(self) -> None:
        """Score everything that the memory bound does not rule out.

        Raises:
            ConfigError: when the wishes leave no layout.
        """
        found = enumerate_layouts(self.request, self.settings, self.topology)
        self.rejected += found.rejected
        if self.basis is not None and self.basis.settings.covers(self.settings):
            self.field = self.basis.field.within(self.settings, found.layouts)
            return
        for layout, micros in self.field.by_bound(found.layouts):
            if self._late():
                self.field.skip(layout, micros)
            elif not self.field.too_slow(layout, micros):
                self._add(layout, micros)

    def _add(self, layout: Layout, micros: tuple[int, ...]) -> None:
        """Score a layout on every rank map."""
        key = (layout.tp, layout.pp)
        try:
            if key not in self.grounds:
                maps = rank_maps(
                    self.topology, layout, self.settings.order, self.request.wishes.rank_map
                )
                self.grounds[key] = [
                    Ground(self.cost, layout, ranks, self.settings.transport)
                    for ranks in distinct_maps(self.topology, maps)
                ]
            for ground in self.grounds[key]:
                self.field.add(ground.with_layout(layout), micros)
        except ConfigError as error:
            if error.where == "site.links":
                raise
            self.rejected.append(Rejected(name_of(layout), error.what))

    def _price_best(self) -> None:
        """Draft and price the best scores until the next cannot win.

        Whose like cost much more than their score, and no less than the best, are passed over:
        they count in the gap.
        """
        best, work, priced, passed, left = math.inf, 0, 0, 0, self.field.skipped
        prices = Experience()
        for row in self.field.ordered():
            if row.least_seconds > best:
                break
            spent = priced >= MOST_PRICED or passed >= MOST_PASSED or work > MOST_WORK
            if self.scored and (spent or self._late()):
                left = min(left, row.least_seconds)
                break
            if prices.expected(row) > max(row.seconds * (1 + DOUBT), best * (1 - DOUBT)):
                left, passed = min(left, row.least_seconds), passed + 1
                continue
            priced += 1
            made = self._known(row) or self._drafted(row, best * (1 + DOUBT))
            if isinstance(made, Draft):
                self.scored.append(Scored(made, self.pricing.quick_seconds(made)))
                work += work_of(made)
                best = min(best, self.scored[-1].seconds)
                prices.add(row, self.scored[-1].seconds)
            else:
                self.rejected.append(Rejected(f"{row.shape}, {row.choice}", made))
                prices.add(row, math.inf)
        self.gap = max(0.0, 1.0 - left / best) if self.scored else 0.0

    def _known(self, row: Row) -> Draft | None:
        """The draft that the basis made of this candidate."""
        key = (row.shape, row.ground.rank_map, row.choice)
        for scored in self.basis.scored if self.basis is not None else ():
            made = scored.draft
            if (made.shape, made.rank_map, made.choice) == key:
                return replace(made, request=self.request, settings=self.settings)
        return None

    def _drafted(self, row: Row, limit: float) -> Draft | str:
        estimates = Estimates(self.settings, row.shape, row.ground, row.choice)
        near = row.seconds * SLACK
        if FORMS[row.choice.schedule].splits_backward:
            near = limit = math.inf  # the objective counts the bubble that this schedule fills
        try:
            # The score holds the cuts too, so the partition's objective is seldom above it.
            made = draft(self.request, self.settings, estimates, min(limit, near))
            if isinstance(made, str) and near < limit:
                made = draft(self.request, self.settings, estimates, limit)
            return made
        except ConfigError as error:
            return error.what

    def _late(self) -> bool:
        """Whether the search's own deadline has passed; one plan is always priced."""
        deadline = self.request.search_seconds
        return (
            deadline is not None and bool(self.scored) and time.monotonic() - self.clock > deadline
        )

    def _finalists(self, ranking: list[Scored]) -> list[Scored]:
        """The best few of each schedule, in order of preference of the schedules."""
        near = ranking[0].seconds * (1 + DOUBT)
        return [
            scored
            for schedule in self.settings.schedules
            for scored in [
                one for one in ranking if one.draft.schedule == schedule and one.seconds <= near
            ][:FINALISTS]
        ]

    def _plainness(self, scored: Scored) -> tuple[int, ...]:
        """Near ties go to the schedule that holds the fewest activations, then to fewer axes."""
        draft = scored.draft
        choice, layout = draft.choice, draft.shape.layout
        return (
            self.settings.schedules.index(choice.schedule),
            layout.cp,
            layout.ep,
            choice.virtual_stages,
            self.settings.shardings.index(choice.sharding),
        )

    def _finalist(self, draft: Draft) -> Scored:
        """A draft with its warm-up settled, priced by the simulator."""
        leave = self._late() or work_of(draft) > LARGEST_REFINED
        settled = draft if leave else refine_warmup(draft, self.pricing)
        return Scored(settled, self.pricing.seconds(settled))

    def finished(self, best: Scored, missing: tuple[str, ...] = ()) -> Plan:
        """The complete plan of the winner."""
        rejected = self._rejected(best)
        return finish(best.draft, self.pricing, self.summary(), rejected, missing)

    def summary(self) -> SearchSummary:
        """What the search has done so far; nothing of its basis."""
        counts = self.field.counts
        return SearchSummary(
            enumerated=counts.enumerated,
            pruned=counts.pruned,
            evaluated=counts.evaluated,
            feasible=counts.feasible,
            cpu_seconds=round(time.process_time() - self.started, 4),
            priced=self.pricing.evaluated,
            gap=round(self.gap, 4),
        )

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
        out = [*self.field.rejected, *self.rejected]
        ruled_out = list({(r.layout, r.reason): r for r in out}.values())
        return (*priced, *ruled_out[:room])
