"""A plan that is decided but not priced: no bytes, no digest, no prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace

from holmes.cost.axes import gathers
from holmes.hardware.topology import Topology
from holmes.plan.layout import ContextAlgorithm, Layout, Recompute, Sharding
from holmes.plan.plan import Batch, Plan, Predicted, ScheduleChoice, Stage
from holmes.planner.buckets import buckets_of
from holmes.planner.groups import memberships, open_groups
from holmes.planner.placement import RankMap
from holmes.planner.request import PlanRequest
from holmes.planner.settings import Settings
from holmes.schedule.instruction import Bucket

UNPREDICTED = Predicted(0.0, 0.0, 0.0, 0.0, 0.0, {})


@dataclass(frozen=True)
class Decided:
    """What a candidate has decided, beyond the settings of the search."""

    batch: Batch
    layout: Layout | None
    sharding: Sharding
    recompute: Recompute
    rank_map: RankMap
    stages: tuple[Stage, ...]
    schedule: ScheduleChoice
    sequence_parallel: bool = False
    context_algorithm: ContextAlgorithm = "ring"


def bare_plan(
    decided: Decided, request: PlanRequest, settings: Settings, topology: Topology
) -> Plan:
    """The plan of a candidate, its groups open."""
    bare = Plan(
        name=request.name,
        site=request.site,
        workload=request.workload,
        batch=decided.batch,
        layout=decided.layout,
        sharding=decided.sharding,
        recompute=decided.recompute,
        rank_map=decided.rank_map,
        stages=decided.stages,
        groups=(),
        schedule=decided.schedule,
        order=settings.order,
        transport=settings.transport,
        partition=settings.partition,
        overlap=settings.overlap,
        predicted=UNPREDICTED,
        placement_name=request.placement_name,
        calibration=request.calibration.to_dict(),
        sequence_parallel=decided.sequence_parallel,
        context_algorithm=decided.context_algorithm,
        scatter_gather=settings.scatter_gather,
        tensor_chunks=settings.tensor_chunks,
        quantize=settings.quantize,
    )
    found = memberships(bare)
    groups = open_groups(found, decided.rank_map, topology, settings.transport)
    return replace(bare, groups=groups)


def stage_buckets(
    request: PlanRequest, blocks: tuple[int, int], layout: Layout, sharding: Sharding, before: int
) -> tuple[Bucket, ...]:
    """Buckets of a virtual stage; ``before`` are those of its rank's earlier stages, as the
    buckets of a rank are numbered through."""
    found = buckets_of(
        request.workload,
        blocks,
        whole_model=layout.pp == 1,
        bucket_mb=request.wishes.bucket_mb,
        by_block=any(gathers(sharding)) and layout.replicas > 1,
        ep=layout.ep,
    )
    return tuple(replace(bucket, index=before + bucket.index) for bucket in found)
