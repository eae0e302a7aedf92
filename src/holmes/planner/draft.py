"""From a shape on a rank map to a Plan: partition, warm-up, and the value itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from holmes.cost.memory import pipeline_parts
from holmes.plan.layout import Recompute, ScheduleName
from holmes.plan.plan import Plan, Predicted, ScheduleChoice, Stage
from holmes.planner.buckets import buckets_of
from holmes.planner.candidates import Shape
from holmes.planner.estimates import Estimates
from holmes.planner.groups import memberships, open_groups
from holmes.planner.partition import Borders, even, exact, objective, proportional
from holmes.planner.placement import RankMap, cluster_of
from holmes.planner.request import PlanRequest
from holmes.planner.settings import Settings
from holmes.planner.warmup import Extras, warmup_of_cuts, within_memory
from holmes.schedule.generate import WITH_WARMUP, generate
from holmes.schedule.instruction import Schedule

ONE_STAGE_WHOLE_BACKWARD = frozenset({"gpipe", "1f1b"})
"""Schedules whose bound on micro-batches in flight needs no list of actions."""
LEAST_SECONDS = 1e-9
"""Stands for the time of a stage that the calibration says takes none."""
UNPREDICTED = Predicted(0.0, 0.0, 0.0, 0.0, 0.0, {})


@dataclass(frozen=True)
class Draft:
    """One complete answer but for its price."""

    request: PlanRequest
    settings: Settings
    estimates: Estimates
    schedule: ScheduleName
    borders: Borders
    extras: Extras

    @property
    def shape(self) -> Shape:
        return self.estimates.shape

    @property
    def rank_map(self) -> RankMap:
        return self.estimates.rank_map

    @property
    def recompute(self) -> Recompute:
        return self.estimates.recompute

    def __str__(self) -> str:
        clusters = " > ".join(cluster_of(slots) for slots in self.estimates.slots)
        text = f"{self.shape}, {self.schedule}"
        if self.recompute != "none":
            text += f", recompute {self.recompute}"
        return text + (f", stages on {clusters}" if len(self.estimates.slots) <= 8 else "")

    @cached_property
    def stage_seconds(self) -> tuple[float, ...]:
        """Forward and backward of one micro-batch on each stage."""
        costs = self.estimates.stage_costs((0,) * len(self.borders), self.virtual_stages)
        return tuple(costs.seconds(s, *blocks) for s, blocks in enumerate(self.borders))

    @property
    def virtual_stages(self) -> int:
        """Stages per pipeline rank."""
        return len(self.borders) // self.shape.layout.pp

    @cached_property
    def least_seconds(self) -> float:
        """The partition's objective: the step time if the cuts between stages were free."""
        if self.virtual_stages > 1:
            pp = self.shape.layout.pp
            ranks = [sum(self.stage_seconds[rank::pp]) for rank in range(pp)]
            return self.shape.microbatches * max(ranks)
        flight = in_flight(self.schedule, self.shape, self.extras)
        return objective(self.estimates.stage_costs(flight), self.borders)

    def fits(self) -> bool:
        """Whether every stage fits its devices with its micro-batches in flight."""
        if self.schedule not in ONE_STAGE_WHOLE_BACKWARD:
            return all(
                need <= room
                for need, room in zip(self._rank_memory, self.estimates.room, strict=True)
            )
        flight = in_flight(self.schedule, self.shape, self.extras)
        return all(
            self.estimates.fits(stage, *blocks, flight[stage])
            for stage, blocks in enumerate(self.borders)
        )

    @property
    def _rank_memory(self) -> list[int]:
        """Bytes of each pipeline rank, counted along the schedule."""
        layout, workload = self.shape.layout, self.request.workload
        made = _generated(
            self.schedule, layout.pp, self.shape.microbatches, self.virtual_stages, self.extras
        )
        micro, sharding = self.shape.batch.micro, self.settings.sharding
        parts = pipeline_parts(
            workload, made, self.borders, layout, sharding, micro, self.recompute
        )
        return [one.total for one in parts]

    @cached_property
    def plan(self) -> Plan:
        """The plan of this draft, not yet priced; groups carry no bytes, the digest is empty."""
        request, settings, layout = self.request, self.settings, self.shape.layout
        topology = self.estimates.cost.topology
        whole = layout.pp == 1
        stages: list[Stage] = []
        for index, blocks in enumerate(self.borders):
            rank = index % layout.pp
            found_buckets = buckets_of(
                request.workload, blocks, whole_model=whole, bucket_mb=request.wishes.bucket_mb
            )
            before = sum(len(stage.buckets) for stage in stages[rank :: layout.pp])
            stages.append(
                Stage(
                    stage=index,
                    blocks=blocks,
                    layout=layout,
                    ranks=tuple(
                        layout.rank(rank, d, t) for d in range(layout.dp) for t in range(layout.tp)
                    ),
                    cluster=cluster_of(self.estimates.slots[rank]),
                    buckets=tuple(replace(b, index=before + b.index) for b in found_buckets),
                )
            )
        found = memberships(layout, stages)
        return Plan(
            name=request.name,
            site=request.site,
            workload=request.workload,
            batch=self.shape.batch,
            layout=layout,
            sharding=settings.sharding,
            recompute=self.recompute,
            rank_map=self.rank_map,
            stages=tuple(stages),
            groups=open_groups(found, self.rank_map, topology, settings.transport),
            schedule=ScheduleChoice(
                name=self.schedule,
                microbatches=self.shape.microbatches,
                virtual_stages=self.virtual_stages,
                extra_warmup=max(self.extras, default=0),
                digest="",
                extra_warmup_per_cut=self.extras,
            ),
            order=settings.order,
            transport=settings.transport,
            partition=settings.partition,
            overlap=settings.overlap,
            predicted=UNPREDICTED,
            placement_name=request.placement_name,
            calibration=request.calibration.to_dict(),
        )

    def with_cut(self, borders: Borders) -> Draft:
        """This draft with other borders."""
        return replace(self, borders=borders)

    def with_warmup(self, extras: Extras) -> Draft:
        """This draft with another warm-up."""
        return replace(self, extras=extras)


def draft(
    request: PlanRequest,
    settings: Settings,
    estimates: Estimates,
    schedule: ScheduleName,
    limit: float = math.inf,
) -> Draft | str:
    """Partition and warm-up by the closed rules, or the reason why there is none.

    Args:
        limit: seconds above which an exact partition is not wanted.

    Raises:
        ConfigError: the partition rule cannot cut this model into these stages, or the
            schedule cannot have these counts.
    """
    shape = estimates.shape
    virtual = settings.virtual_stages
    if schedule not in ONE_STAGE_WHOLE_BACKWARD:
        _generated(schedule, shape.layout.pp, shape.microbatches, virtual, 0)
    extras = _first_warmup(request, estimates, schedule)
    bare = (0,) * len(extras) if request.wishes.extra_warmup is None else extras
    for tried in dict.fromkeys((extras, bare)):
        flight = in_flight(schedule, shape, tried, virtual)
        borders = _cut(settings, estimates, flight, limit)
        if borders is None:
            continue
        found = Draft(request, settings, estimates, schedule, borders, tried)
        if found.fits():
            return found
        if request.wishes.extra_warmup is None:
            lowered = within_memory(tried, lambda e, d=found: d.with_warmup(e).fits())  # type: ignore[misc]
            if found.with_warmup(lowered).fits():
                return found.with_warmup(lowered)
    return _why_not(estimates, in_flight(schedule, shape, bare, virtual), virtual)


def in_flight(
    schedule: ScheduleName, shape: Shape, extras: Extras, virtual_stages: int = 1
) -> tuple[int, ...]:
    """Micro-batches between forward and backward, per stage, as the schedule bounds them."""
    stages, microbatches = shape.layout.pp, shape.microbatches
    if schedule not in ONE_STAGE_WHOLE_BACKWARD:
        return _generated(schedule, stages, microbatches, virtual_stages, extras).in_flight
    if schedule == "gpipe":
        return (microbatches,) * stages
    return tuple(min(microbatches, stages - stage + sum(extras[stage:])) for stage in range(stages))


@lru_cache(maxsize=64)
def _generated(
    schedule: ScheduleName, stages: int, microbatches: int, virtual: int, extras: Extras | int
) -> Schedule:
    return generate(schedule, stages, microbatches, virtual, extras)


def _first_warmup(request: PlanRequest, estimates: Estimates, schedule: ScheduleName) -> Extras:
    cuts = estimates.shape.layout.pp - 1
    if schedule not in WITH_WARMUP:
        return (0,) * cuts
    if request.wishes.extra_warmup is not None:
        return (request.wishes.extra_warmup,) * cuts
    typical = estimates.least_seconds / estimates.shape.microbatches
    return warmup_of_cuts(estimates.cut_seconds, typical, estimates.shape.microbatches)


def _cut(
    settings: Settings, estimates: Estimates, flight: tuple[int, ...], limit: float
) -> Borders | None:
    blocks = estimates.cost.workload.blocks
    virtual = settings.virtual_stages
    stages = estimates.shape.layout.pp * virtual
    if settings.partition == "even":
        return even(blocks, stages)
    costs = estimates.stage_costs(flight, virtual)
    if virtual > 1:
        limit = math.inf  # seconds of the stages do not bound the step: ranks hold several
    if settings.partition == "exact":
        return exact(costs, limit)
    share = max(1, len(blocks) // stages)
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
    return proportional(blocks, speeds)


def _why_not(estimates: Estimates, flight: tuple[int, ...], virtual: int) -> str:
    """Name the memory that is short for equal counts of blocks, or else that it is slow."""
    blocks = estimates.cost.workload.blocks
    stages = estimates.shape.layout.pp * virtual
    cuts = [(len(blocks) * s // stages, len(blocks) * (s + 1) // stages) for s in range(stages)]
    short, stage = max(
        (estimates.memory(*cut, flight[s]) - estimates.room[s % len(estimates.room)], s)
        for s, cut in enumerate(cuts)
    )
    room = estimates.room[stage % len(estimates.room)]
    if short <= 0:
        return "slower than the best plan even with free cuts between the stages"
    return (
        f"does not fit in memory: stage {stage} needs about {(short + room) / 1e9:.1f} GB "
        f"of {room / 1e9:.1f} GB per device"
    )
