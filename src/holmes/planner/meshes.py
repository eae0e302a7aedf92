"""Plans whose stages have degrees of their own, on sites of unequal clusters.

Every order of the clusters along the pipeline, and for each cluster every count of stages
and tensor degree that uses all its devices: the pipeline is cut between clusters. All of them
are priced by the closed form, the best few by the event simulator, whose winner's cut is moved
while that helps. With degrees that the job gives by stage there is one candidate an order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, permutations, product

from holmes.cost.memory import memory_bytes
from holmes.cost.model import CostModel
from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.plan.explain import Notes, explain
from holmes.plan.plan import Plan, Predicted, Rejected, SearchSummary
from holmes.plan.program import program_of
from holmes.planner.candidates import LARGEST_MICRO
from holmes.planner.finish import prediction
from holmes.planner.groups import with_bytes
from holmes.planner.mesh_draft import Mesh, MeshDraft
from holmes.planner.partition import Borders
from holmes.planner.placement import MAX_CLUSTER_ORDERS, RankMap, check_rank_map
from holmes.planner.refine import neighbours
from holmes.planner.request import PlanRequest
from holmes.planner.schedules import schedules_of
from holmes.planner.settings import NESTED, SHARDED_WEIGHTS, Settings, settings_of
from holmes.planner.warmup import Extras
from holmes.schedule.generate import WITH_WARMUP
from holmes.simulate.closed_form import step_seconds
from holmes.simulate.events import simulate

MOST_CANDIDATES = 300
FINALISTS = 3
MOST_MOVES = 8
MOST_DEVICES = 64
"""Larger sites are left to rectangular plans unless the job gives degrees by stage."""
WORTH = 0.002
WARMUPS = (0, 1, 2)
"""Extra warm-up forwards that are tried, the same for all cuts."""


@dataclass(frozen=True)
class Priced:
    """A plan of unequal stages and its step time."""

    draft: MeshDraft
    borders: Borders
    extras: Extras
    seconds: float

    @property
    def plan(self) -> Plan:
        return self.draft.plan(self.borders, self.extras)


def unequal(request: PlanRequest) -> bool:
    """Whether stages of their own degrees may help: unequal clusters, and nothing fixed that
    says otherwise."""
    wishes, clusters = request.wishes, request.site.clusters
    fixed = (
        wishes.tensor,
        wishes.pipeline,
        wishes.data,
        wishes.context,
        wishes.expert,
        wishes.rank_map,
    )
    able = request.capabilities is None or request.capabilities.unequal_stages
    if not able or any(one is not None for one in fixed) or wishes.order not in (None, "cluster"):
        return False
    devices = Topology(request.site).devices
    counts = {c.name: sum(s.node.cluster == c.name for s in devices) for c in clusters}
    speeds = {(s.node.device.kind, s.node.device.speed) for s in devices}
    differ = len(set(counts.values())) > 1 or len(speeds) > 1
    return len(clusters) > 1 and differ and len(devices) <= MOST_DEVICES


def best_mesh(request: PlanRequest, cost: CostModel, limit: float = math.inf) -> Priced | None:
    """The fastest plan of unequal stages that fits, or None where none is below ``limit``."""
    settings = settings_of(replace(request.wishes, meshes=()), request.capabilities)
    if settings.shardings[0] in NESTED:
        return None  # their inner groups are those of equal stages
    priced: list[Priced] = []
    for draft in islice(_drafts(request, settings, cost), MOST_CANDIDATES):
        found = _quick(draft)
        if found is not None:
            priced.append(found)
    near = sorted(priced, key=lambda one: one.seconds)[:FINALISTS]
    finalists = [_simulated(one.draft, one.borders, one.extras) for one in near]
    if not finalists:
        return None
    best = _refined(min(finalists, key=lambda one: one.seconds))
    return best if best.seconds < limit else None


def plan_meshes(request: PlanRequest) -> Plan:
    """The plan for degrees that the job gives by stage.

    Raises:
        ConfigError: they do not fit the site or the batch, or nothing fits in memory.
    """
    if request.wishes.sharding in NESTED:
        raise ConfigError(
            f"sharding {request.wishes.sharding} with degrees by stage",
            where="parallel.sharding",
            why="its inner groups have one size, which the replicas of unequal stages do not share",
            next_step=f"use parallel.sharding={SHARDED_WEIGHTS[0]}, or the same degrees everywhere",
        )
    started = time.process_time()
    cost = request.cost
    best = best_mesh(request, cost)
    if best is None:
        degrees = ", ".join(f"tensor {tp} x data {dp}" for tp, dp in request.wishes.meshes)
        raise ConfigError(
            f"no plan with stages of {degrees} exists on site {request.site.name!r}",
            where="parallel.tensor, parallel.data",
            why=f"the stages together need all {len(cost.topology.devices)} devices, tensor ranks "
            "of one node; micro-batches divide batch.global and reach every replica, and "
            "all must fit in memory",
            next_step="give each stage the degrees of one cluster, or leave them to the planner",
        )
    return finished(best, SearchSummary(cpu_seconds=round(time.process_time() - started, 4)), ())


def finished(best: Priced, summary: SearchSummary, rejected: tuple[Rejected, ...]) -> Plan:
    """The complete plan: digest, bytes, prediction and reasons."""
    bare, cost = best.plan, best.draft.cost
    program = program_of(bare, check=False)
    schedule = replace(bare.schedule, digest=program.digest)
    groups = with_bytes(bare.groups, program, bare)
    plan = replace(bare, groups=groups, schedule=schedule, search=summary, rejected=rejected)
    plan = replace(plan, predicted=_predicted(plan, cost, best.seconds))
    times = tuple(
        max(
            cost.stage_time(plan, stage, stage.blocks, rank).forward
            + cost.stage_time(plan, stage, stage.blocks, rank).backward
            for rank in stage.ranks
        )
        for stage in plan.stages
    )
    notes = Notes(stage_seconds=times, partition="stages have the degrees of their clusters")
    return replace(plan, explain=explain(plan, notes))


def _predicted(plan: Plan, cost: CostModel, seconds: float) -> Predicted:
    busy = sum(
        plan.schedule.microbatches * (time.forward + time.backward)
        for stage in plan.stages
        for time in (cost.stage_time(plan, stage, stage.blocks, rank) for rank in stage.ranks)
    )
    idle = max(0.0, 1 - busy / plan.world_size / seconds)
    return prediction(plan, cost, seconds, memory_bytes(plan), idle)


def _drafts(request: PlanRequest, settings: Settings, cost: CostModel) -> Iterator[MeshDraft]:
    """Every candidate, without cut and warm-up."""
    for meshes, ranks in _placed(request, cost.topology):
        blocks = len(request.workload.blocks)
        if any(request.workload.tensor_obstacle(tp) for tp, _ in meshes) or len(meshes) > blocks:
            continue
        for samples in _rounds(request, meshes):
            counts = (len(meshes), request.global_batch // samples, blocks)
            asked = request.wishes.schedule or request.wishes.virtual_stages
            for schedule, virtual in schedules_of(settings, *counts):
                if virtual > 1 and not asked:
                    continue
                draft = MeshDraft(
                    request, settings, cost, meshes, ranks, samples, schedule, virtual
                )
                yield draft


def _placed(request: PlanRequest, topology: Topology) -> Iterator[tuple[tuple[Mesh, ...], RankMap]]:
    """Degrees by stage with a rank map, each once."""
    given, forced = request.wishes.meshes, request.wishes.rank_map
    if forced is not None:
        check_rank_map(forced, len(topology.devices))
    names = [cluster.name for cluster in request.site.clusters]
    fixed_order = request.wishes.order not in (None, "cluster")
    orders: Iterable[tuple[str, ...]] = [tuple(names)] if fixed_order else permutations(names)
    for order in islice(orders, MAX_CLUSTER_ORDERS):
        devices = {
            name: [s.index for s in topology.devices if s.node.cluster == name] for name in order
        }
        ranks = forced or tuple(chain.from_iterable(devices.values()))
        if given:
            found: Iterable[tuple[Mesh, ...]] = [given]
        else:
            each = [_of_cluster(topology, members) for members in devices.values()]
            found = (tuple(chain.from_iterable(one)) for one in product(*each))
        for meshes in found:
            whole = sum(tp * dp for tp, dp in meshes) == len(ranks)
            differ = given or len(set(meshes)) > 1
            if whole and differ and _inside(topology, meshes, ranks):
                yield meshes, ranks


def _of_cluster(topology: Topology, members: list[int]) -> list[tuple[Mesh, ...]]:
    """Ways to use all devices of a cluster: equal stages, tensor ranks inside nodes."""
    count = len(members)
    most = max(topology.devices[index].node.device.count for index in members)
    return [
        ((tp, count // tp // stages),) * stages
        for tp in range(1, most + 1)
        for stages in range(1, count + 1)
        if count % (tp * stages) == 0
    ]


def _inside(topology: Topology, meshes: tuple[Mesh, ...], ranks: RankMap) -> bool:
    """Whether every tensor group sits in one node."""
    first = 0
    for tp, dp in meshes:
        for group in range(dp):
            mine = ranks[first + group * tp : first + (group + 1) * tp]
            if len({topology.devices[index].node.index for index in mine}) > 1:
                return False
        first += tp * dp
    return True


def _rounds(request: PlanRequest, meshes: tuple[Mesh, ...]) -> list[int]:
    """Samples of a micro-batch on all replicas: divisors of the batch that reach every one."""
    most, least = max(dp for _, dp in meshes), min(dp for _, dp in meshes)
    total, micro = request.global_batch, request.micro_batch
    divisors = [n for n in range(most, total + 1) if total % n == 0]
    if micro is not None:
        return [n for n in divisors if -(-n // most) == micro]
    return [n for n in divisors if -(-n // least) <= LARGEST_MICRO]


def _quick(draft: MeshDraft) -> Priced | None:
    """The best warm-up by the closed form, with the first recomputation that fits."""
    wish = draft.settings.extra_warmup
    tried = WARMUPS if wish is None else (wish,)
    if draft.schedule not in WITH_WARMUP:
        tried = (0,)
    cuts = len(draft.meshes) - 1
    for recompute in draft.settings.recomputes:
        made = replace(draft, recompute=recompute)
        try:
            borders = made.borders()
            plans = {extra: made.plan(borders, (extra,) * cuts) for extra in tried}
            fitting = {e: p for e, p in plans.items() if made.fits(p)}
        except ConfigError as error:
            if error.where == "site.links":
                raise
            return None
        if fitting:
            seconds = {e: step_seconds(p, draft.cost) for e, p in fitting.items()}
            extra = min(seconds, key=lambda e: (seconds[e] * (1 + WORTH * e), e))
            return Priced(made, borders, (extra,) * cuts, seconds[extra])
    return None


def _simulated(draft: MeshDraft, borders: Borders, extras: Extras) -> Priced:
    plan = draft.plan(borders, extras)
    program = program_of(plan, check=False)
    return Priced(draft, borders, extras, simulate(plan, draft.cost, program).makespan * 1e-9)


def _refined(best: Priced) -> Priced:
    """The cut moved block by block while the simulator says faster."""
    if best.draft.settings.partition != "exact":
        return best
    for _ in range(MOST_MOVES):
        tried = [
            _simulated(best.draft, borders, best.extras)
            for borders in neighbours(best.borders)
            if best.draft.fits(best.draft.plan(borders, best.extras))
        ]
        faster = min(tried, key=lambda one: one.seconds, default=best)
        if faster.seconds >= best.seconds * (1 - WORTH):
            return best
        best = faster
    return best
