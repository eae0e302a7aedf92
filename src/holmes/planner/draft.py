"""From a shape on a rank map to a Plan: partition, warm-up, and the value itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

from holmes.plan.layout import Layout, Recompute, ScheduleName
from holmes.plan.plan import Plan, Predicted, ScheduleChoice, Stage
from holmes.planner.buckets import buckets_of
from holmes.planner.candidates import Choice, Shape
from holmes.planner.estimates import Estimates
from holmes.planner.groups import memberships, open_groups
from holmes.planner.partition import Borders, even, exact, objective, proportional
from holmes.planner.placement import RankMap, cluster_of
from holmes.planner.request import PlanRequest
from holmes.planner.schedules import in_flight
from holmes.planner.settings import Settings
from holmes.planner.warmup import Extras, warmup_of_cuts, within_memory

LEAST_SECONDS = 1e-9
"""Stands for the time of a stage that the calibration says takes none."""
SIMULATED_AS: dict[ScheduleName, ScheduleName] = {
    "interleaved": "1f1b",
    "zero-bubble": "1f1b",
    "looped-bfs": "gpipe",
}
"""Schedules priced as another one less what they gain on its fill."""
UNPREDICTED = Predicted(0.0, 0.0, 0.0, 0.0, 0.0, {})


@dataclass(frozen=True)
class Draft:
    """One complete answer but for its price. ``borders`` are of device stages."""

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
        """Forward and backward of one micro-batch on each stage."""
        costs = self.estimates.stage_costs((0,) * len(self.borders))
        return tuple(costs.seconds(s, *blocks) for s, blocks in enumerate(self.borders))

    @cached_property
    def least_seconds(self) -> float:
        """The partition's objective: the step time if the cuts between stages were free."""
        return objective(self.estimates.stage_costs(self.in_flight), self.borders)

    @property
    def in_flight(self) -> tuple[float, ...]:
        """Micro-batches between forward and backward, per stage."""
        return flight_of(self.estimates, self.extras)

    @property
    def memory(self) -> tuple[int, ...]:
        """Bytes of a rank of each stage."""
        flight = self.in_flight
        return tuple(
            self.estimates.memory(*blocks, flight[stage])
            for stage, blocks in enumerate(self.borders)
        )

    def fits(self) -> bool:
        """Whether every stage fits its devices with its micro-batches in flight."""
        room = self.estimates.room
        return all(bytes_ <= room[stage] for stage, bytes_ in enumerate(self.memory))

    @cached_property
    def plan(self) -> Plan:
        """The plan of this draft, not yet priced; groups carry no bytes, the digest is empty."""
        return self._plan(self.shape.layout, self.choice.virtual_stages)

    @cached_property
    def priced(self) -> Plan:
        """The plan as the simulator takes it: context ranks as replicas of a shorter sample,
        one stage a device, and the schedule whose fill is known. Often the plan itself."""
        layout = self.shape.layout
        plain = layout.cp == 1 and self.choice.virtual_stages == 1 and not self.choice.sequence
        plan = self.plan
        if not plain:
            plan = self._plan(Layout(layout.tp, layout.pp, layout.dp * layout.cp), 1)
            plan = replace(plan, workload=self.estimates.cost.workload)
        name = SIMULATED_AS.get(self.schedule, self.schedule)
        if name == plan.schedule.name:
            return plan
        return replace(plan, schedule=replace(plan.schedule, name=name))

    def _plan(self, layout: Layout, virtual: int) -> Plan:
        request, settings = self.request, self.settings
        topology = self.estimates.ground.cost.topology
        width = layout.tp * layout.dp * layout.cp
        stages = tuple(
            Stage(
                stage=index,
                blocks=blocks,
                layout=layout,
                ranks=tuple(range(device * width, (device + 1) * width)),
                cluster=cluster_of(self.estimates.slots[device]),
                buckets=buckets_of(
                    request.workload,
                    blocks,
                    whole_model=layout.pp * virtual == 1,
                    bucket_mb=request.wishes.bucket_mb,
                ),
            )
            for index, blocks in enumerate(looped(self.borders, virtual))
            for device in [index % layout.pp]
        )
        found = memberships(layout, stages)
        return Plan(
            name=request.name,
            site=request.site,
            workload=request.workload,
            batch=self.shape.batch,
            layout=layout,
            sharding=self.choice.sharding,
            recompute=self.recompute,
            rank_map=self.rank_map,
            stages=stages,
            groups=open_groups(found, self.rank_map, topology, settings.transport),
            schedule=ScheduleChoice(
                name=self.schedule,
                microbatches=self.shape.microbatches,
                virtual_stages=virtual,
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
            sequence_parallel=self.choice.sequence,
        )

    def with_cut(self, borders: Borders) -> Draft:
        """This draft with other borders."""
        return replace(self, borders=borders)

    def with_warmup(self, extras: Extras) -> Draft:
        """This draft with another warm-up."""
        return replace(self, extras=extras)


def looped(borders: Borders, virtual: int) -> Borders:
    """The borders of virtual stages: each device's count of blocks dealt over its chunks.

    Virtual stage c p + s is chunk c of device s. The chain is laid through chunk
    after chunk, so a device keeps its count but not its blocks; every chunk gets
    at least one block, which may move a few between devices.
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


def draft(
    request: PlanRequest, settings: Settings, estimates: Estimates, limit: float = math.inf
) -> Draft | str:
    """Partition and warm-up by the closed rules, or the reason why there is none.

    Args:
        limit: seconds above which an exact partition is not wanted.

    Raises:
        ConfigError: the partition rule cannot cut this model into these stages.
    """
    extras = _first_warmup(request, estimates)
    bare = (0,) * len(extras) if request.wishes.extra_warmup is None else extras
    for tried in dict.fromkeys((extras, bare)):
        borders = _cut(settings, estimates, flight_of(estimates, tried), limit)
        if borders is None:
            continue
        found = Draft(request, settings, estimates, borders, tried)
        if found.fits():
            return found
        if request.wishes.extra_warmup is None:
            lowered = within_memory(tried, lambda e, d=found: d.with_warmup(e).fits())  # type: ignore[misc]
            if found.with_warmup(lowered).fits():
                return found.with_warmup(lowered)
    return _why_not(estimates, flight_of(estimates, bare))


def flight_of(estimates: Estimates, extras: Extras) -> tuple[float, ...]:
    """Micro-batches between forward and backward, per stage, as the schedule bounds them."""
    choice, shape = estimates.choice, estimates.shape
    return in_flight(
        choice.schedule, shape.layout.pp, shape.microbatches, choice.virtual_stages, extras
    )


def _first_warmup(request: PlanRequest, estimates: Estimates) -> Extras:
    cuts = estimates.shape.layout.pp - 1
    if estimates.choice.schedule != "1f1b":
        return (0,) * cuts
    if request.wishes.extra_warmup is not None:
        return (request.wishes.extra_warmup,) * cuts
    typical = estimates.least_seconds / estimates.shape.microbatches
    return warmup_of_cuts(estimates.cut_seconds, typical, estimates.shape.microbatches)


def _cut(
    settings: Settings, estimates: Estimates, flight: tuple[float, ...], limit: float
) -> Borders | None:
    blocks = estimates.cost.workload.blocks
    stages = estimates.shape.layout.pp
    if settings.partition == "even":
        return even(blocks, stages)
    costs = estimates.stage_costs(flight)
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


def _why_not(estimates: Estimates, flight: tuple[float, ...]) -> str:
    """Name the memory that is short for equal counts of blocks, or else that it is slow."""
    blocks = estimates.cost.workload.blocks
    stages = estimates.shape.layout.pp
    cuts = [(len(blocks) * s // stages, len(blocks) * (s + 1) // stages) for s in range(stages)]
    short, stage = max(
        (estimates.memory(*cut, flight[s]) - estimates.room[s], s) for s, cut in enumerate(cuts)
    )
    room = estimates.room[stage]
    if short <= 0:
        return "slower than the best plan even with free cuts between the stages"
    return (
        f"does not fit in memory: stage {stage} needs about {(short + room) / 1e9:.1f} GB "
        f"of {room / 1e9:.1f} GB per device"
    )
