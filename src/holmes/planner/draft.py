"""From a shape on a rank map to a Plan: partition, warm-up, and the value itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

from holmes.plan.layout import Layout, Recompute, ScheduleName
from holmes.plan.plan import Plan, ScheduleChoice, Stage
from holmes.planner.bare import Decided, bare_plan, stage_buckets
from holmes.planner.candidates import Choice, Shape
from holmes.planner.estimates import Estimates
from holmes.planner.partition import Borders, even, exact, objective, proportional
from holmes.planner.placement import RankMap, cluster_of
from holmes.planner.request import PlanRequest
from holmes.planner.settings import Settings
from holmes.planner.warmup import Extras, warmup_of_cuts, within_memory
from holmes.schedule.generate import WITH_WARMUP

LEAST_SECONDS = 1e-9
"""Stands for the time of a stage that the calibration says takes none."""


@dataclass(frozen=True)
class Draft:
    """One complete answer but for its price. ``borders`` are of virtual stages."""

    request: PlanRequest
    settings: Settings
    estimates: Estimates
    borders: Borders
    extras: Extras

    @property
    def shape(self) -> Shape:
        return self.estimates.shape

    @property
    def choice(self) -> Choice:
        return self.estimates.choice

    @property
    def rank_map(self) -> RankMap:
        return self.estimates.rank_map

    @property
    def recompute(self) -> Recompute:
        return self.choice.recompute

    @property
    def schedule(self) -> ScheduleName:
        return self.choice.schedule

    def __str__(self) -> str:
        clusters = " > ".join(cluster_of(slots) for slots in self.estimates.slots)
        text = f"{self.shape}, {self.choice}"
        return text + (f", stages on {clusters}" if len(self.estimates.slots) <= 8 else "")

    @cached_property
    def stage_seconds(self) -> tuple[float, ...]:
        """Forward and backward of one micro-batch on each virtual stage."""
        return self.estimates.seconds(self.borders)

    @cached_property
    def rank_seconds(self) -> tuple[float, ...]:
        """Forward and backward of one micro-batch on all stages of each pipeline rank."""
        pp = self.shape.layout.pp
        return tuple(sum(self.stage_seconds[rank::pp]) for rank in range(pp))

    @cached_property
    def least_seconds(self) -> float:
        """The partition's objective: the step time if the cuts between stages were free."""
        if self.choice.virtual_stages > 1:
            return self.shape.microbatches * max(self.rank_seconds)
        flight = self.estimates.in_flight(self.extras)
        return objective(self.estimates.stage_costs(flight), self.borders)

    @cached_property
    def memory(self) -> tuple[int, ...]:
        """Bytes of a rank of each pipeline stage."""
        return self.estimates.rank_memory(self.borders, self.extras)

    def fits(self) -> bool:
        """Whether every rank fits its device with its micro-batches in flight."""
        room = self.estimates.room
        return all(bytes_ <= room[stage] for stage, bytes_ in enumerate(self.memory))

    @cached_property
    def plan(self) -> Plan:
        """The plan of this draft, not yet priced; groups carry no bytes, the digest is empty."""
        return self._plan(replace(self.shape.layout, shard=self.estimates.shard))

    @cached_property
    def priced(self) -> Plan:
        """The plan as the simulator takes it: context ranks as replicas of a shorter sample.
        Often the plan itself."""
        layout = self.shape.layout
        if layout.cp == 1 and not self.choice.sequence:
            return self.plan
        replicas = layout.dp * layout.cp
        shard = self.estimates.shard
        plan = self._plan(Layout(layout.tp, layout.pp, replicas, ep=layout.ep, shard=shard))
        return replace(plan, workload=self.estimates.cost.workload)

    def _plan(self, layout: Layout) -> Plan:
        decided = Decided(
            batch=self.shape.batch,
            layout=layout,
            sharding=self.choice.sharding,
            recompute=self.recompute,
            rank_map=self.rank_map,
            stages=self._stages(layout),
            schedule=ScheduleChoice(
                name=self.schedule,
                microbatches=self.shape.microbatches,
                virtual_stages=self.choice.virtual_stages,
                extra_warmup=max(self.extras, default=0),
                digest="",
                extra_warmup_per_cut=self.extras,
            ),
            sequence_parallel=self.choice.sequence,
            context_algorithm=self.estimates.algorithm,
        )
        topology = self.estimates.ground.cost.topology
        return bare_plan(decided, self.request, self.settings, topology)

    def _stages(self, layout: Layout) -> tuple[Stage, ...]:
        """All virtual stages."""
        width = layout.tp * layout.dp * layout.cp
        stages: list[Stage] = []
        for index, blocks in enumerate(self.borders):
            rank = index % layout.pp
            before = sum(len(stage.buckets) for stage in stages[rank :: layout.pp])
            stages.append(
                Stage(
                    stage=index,
                    blocks=blocks,
                    layout=layout,
                    ranks=tuple(range(rank * width, (rank + 1) * width)),
                    cluster=cluster_of(self.estimates.slots[rank]),
                    buckets=stage_buckets(
                        self.request, blocks, layout, self.choice.sharding, before
                    ),
                )
            )
        return tuple(stages)

    def with_cut(self, borders: Borders) -> Draft:
        """This draft with other borders."""
        return replace(self, borders=borders)

    def with_warmup(self, extras: Extras) -> Draft:
        """This draft with another warm-up."""
        return replace(self, extras=extras)


def draft(
    request: PlanRequest, settings: Settings, estimates: Estimates, limit: float = math.inf
) -> Draft | str:
    """Partition and warm-up by the closed rules, or the reason why there is none.

    Args:
        limit: seconds above which an exact partition is not wanted.

    Raises:
        ConfigError: the partition rule cannot cut this model into these stages, or the
            schedule cannot have these counts.
    """
    extras = _first_warmup(request, estimates)
    bare = (0,) * len(extras) if request.wishes.extra_warmup is None else extras
    for tried in dict.fromkeys((extras, bare)):
        for borders in _cuts(settings, estimates, estimates.in_flight(tried), limit):
            found = Draft(request, settings, estimates, borders, tried)
            if found.fits():
                return found
            if request.wishes.extra_warmup is None:
                lowered = within_memory(tried, lambda e, d=found: d.with_warmup(e).fits())  # type: ignore[misc]
                if found.with_warmup(lowered).fits():
                    return found.with_warmup(lowered)
    return _why_not(estimates, bare)


def fullest(estimates: Estimates, extras: Extras) -> tuple[int, float]:
    """(pipeline rank, bytes) that overflow the most with equal counts of blocks."""
    stages = estimates.shape.layout.pp * estimates.virtual
    cuts = equal(len(estimates.cost.workload.blocks), stages)
    needs = estimates.rank_memory(cuts, extras)
    rank = max(range(len(needs)), key=lambda r: needs[r] - estimates.room[r])
    return rank, needs[rank]


def _first_warmup(request: PlanRequest, estimates: Estimates) -> Extras:
    cuts = estimates.shape.layout.pp - 1
    if estimates.choice.schedule not in WITH_WARMUP:
        return (0,) * cuts
    if request.wishes.extra_warmup is not None:
        return (request.wishes.extra_warmup,) * cuts
    typical = estimates.least_seconds / estimates.shape.microbatches
    return warmup_of_cuts(estimates.cut_seconds, typical, estimates.shape.microbatches)


def _cuts(
    settings: Settings, estimates: Estimates, flight: tuple[float, ...], limit: float
) -> list[Borders]:
    """The borders by the partition rule, the best first."""
    blocks, virtual = estimates.cost.workload.blocks, estimates.virtual
    stages = estimates.shape.layout.pp
    if settings.partition == "even":
        return [even(blocks, stages * virtual)]
    costs = estimates.stage_costs(flight)
    if settings.partition == "exact":
        found = exact(costs, limit)
        if virtual == 1:
            return [] if found is None else [found]
        tried = [] if found is None else [dealt(found, virtual)]
        fine = exact(estimates.looped_costs(flight))
        tried += [] if fine is None else [fine]
        return sorted([*tried, equal(len(blocks), stages * virtual)], key=estimates.pace)
    share = max(1, len(blocks) // (stages * virtual))
    # S_i is the speed at which stage i does an equal share of the step, its exchange included.
    speeds = [
        1.0
        / max(
            costs.microbatches * costs.seconds(stage, 0, len(blocks)) / stages
            + costs.exposed(stage, 0, share),
            LEAST_SECONDS,
        )
        for stage in range(stages)
    ]
    return [proportional(blocks, speeds * virtual)]


def equal(blocks: int, stages: int) -> Borders:
    """Equal counts of blocks, of whatever kind."""
    return tuple((blocks * s // stages, blocks * (s + 1) // stages) for s in range(stages))


def dealt(borders: Borders, virtual: int) -> Borders:
    """The borders of virtual stages: each rank's count of blocks dealt over its stages.

    Virtual stage c p + s is stage c of rank s. The chain is laid through stage
    after stage, so a rank keeps its count but not its blocks, and with it the sum that
    sets the pace; every stage gets at least one block, which may move a few between ranks.
    """
    if virtual == 1:
        return borders
    counts = [stop - start for start, stop in borders]
    sizes = [
        count * (chunk + 1) // virtual - count * chunk // virtual
        for chunk in reversed(range(virtual))
        for count in counts
    ]
    for index, size in enumerate(sizes):
        if size < 1:
            sizes[index] = 1
            sizes[sizes.index(max(sizes))] -= 1
    return tuple(pairwise(accumulate(sizes, initial=0)))


def _why_not(estimates: Estimates, extras: Extras) -> str:
    """Name the memory that is short for equal counts of blocks, or else that it is slow."""
    rank, needs = fullest(estimates, extras)
    room = estimates.room[rank]
    if needs <= room:
        return "slower than the best plan even with free cuts between the stages"
    return (
        f"does not fit in memory: stage {rank} needs about {needs / 1e9:.1f} GB "
        f"of {room / 1e9:.1f} GB per device"
    )
