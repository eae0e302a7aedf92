"""A case as the Plan that ran: what a planned layout has, with nothing left to choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from holmes.accuracy.case_model import fuses, is_gated, workload_of
from holmes.accuracy.implementations import implementation_of
from holmes.accuracy.table import Case, UnusableRowError
from holmes.accuracy.words import SINGLE, key
from holmes.cost.calibration import SINCE_HOPPER, Calibration
from holmes.cost.execution import Execution
from holmes.cost.model import CostModel
from holmes.errors import HolmesError
from holmes.hardware.catalogue import resolve
from holmes.hardware.read import read_site
from holmes.hardware.site import Cluster, NodeGroup, Site
from holmes.hardware.topology import Topology
from holmes.plan.layout import Layout, ScheduleName, Sharding, Wishes
from holmes.plan.plan import Batch, Plan
from holmes.planner.candidates import Choice, Shape
from holmes.planner.draft import Draft
from holmes.planner.estimates import Estimates
from holmes.planner.ground import Ground
from holmes.planner.partition import Borders, even
from holmes.planner.placement import RankMap, rank_maps
from holmes.planner.request import PlanRequest
from holmes.planner.settings import Settings, settings_of
from holmes.schedule.generate import WITH_VIRTUAL_STAGES
from holmes.workload.workload import Workload

FULLY_SHARDED = ("parameters", "hybrid", "three-level")
"""Shardings that gather and reduce under compute by construction."""


@dataclass(frozen=True)
class CasePlan:
    """A case's plan and the cost model that prices it."""

    case: Case
    plan: Plan
    cost: CostModel
    assumed: tuple[str, ...] = ()


def plan_of(case: Case, sites: Path, calibration: Calibration) -> CasePlan:
    """The plan of a case.

    Raises:
        UnusableRowError: the site, the model or the layout cannot be had, with the reason.
    """
    try:
        site = scaled(read_site(sites / f"{case.site}.yaml"), case.devices)
        case = _with_microbatches(_with_attention(case, site))
        workload = workload_of(case)
        return _plan(case, site, workload, calibration)
    except HolmesError as error:
        raise UnusableRowError(reason_of(error)) from None


def _with_microbatches(case: Case) -> Case:
    """A case whose pipeline has micro-batches: a row with one alone states the batch of a replica,
    which code with a default number of them divides among the stages."""
    parts, rest = divmod(case.micro, case.pp)
    if case.pp == 1 or case.microbatches > 1 or rest:
        return case
    if not implementation_of(case.software).splits_by_stages:
        return case
    said = f"{case.micro} samples of a replica taken as {case.pp} micro-batches, its code's default"
    return replace(case, micro=parts, assumed=(*case.assumed, said))


def _with_attention(case: Case, site: Site) -> Case:
    """A case whose attention is fused where its devices are younger than fused attention: what
    computes in fp8 is, and software for it has it (Transformer Engine, PyTorch 2). It takes
    half precision alone."""
    other = key(case.precision) in SINGLE or implementation_of(case.software).masks_apart
    if case.flash_attention or is_gated(case) or other:
        return case
    kinds = [resolve(group.device) for cluster in site.clusters for group in cluster.groups()]
    if not all(kind.peaks.get("fp8") or kind.name in SINCE_HOPPER for kind in kinds):
        return case
    said = "attention not stated, taken as fused, as software for such devices has it"
    return replace(case, flash_attention=True, assumed=(*case.assumed, said))


def reason_of(error: HolmesError) -> str:
    """An error as the reason why a row is skipped."""
    return error.what if error.why is None else f"{error.what}: {error.why}"


def scaled(site: Site, devices: int) -> Site:
    """A site file grown to this many devices; one that has them already stays.

    With several clusters each takes an equal share, and so does each kind of node its own;
    fewer devices than a node has are a part of one node.

    Raises:
        UnusableRowError: the devices are no such share.
    """
    if devices == sum(_devices(cluster) for cluster in site.clusters):
        return site
    share, rest = divmod(devices, len(site.clusters))
    if rest:
        raise UnusableRowError(
            f"{devices} devices do not divide among {len(site.clusters)} clusters"
        )
    return site.model_copy(
        update={"clusters": tuple(_scaled_cluster(cluster, share) for cluster in site.clusters)}
    )


def _devices(cluster: Cluster) -> int:
    return sum(group.count * group.device.count for group in cluster.groups())


def _scaled_cluster(cluster: Cluster, devices: int) -> Cluster:
    groups = cluster.groups()
    if len(groups) > 1:
        times, rest = divmod(devices, _devices(cluster))
        if rest:
            raise UnusableRowError(
                f"{devices} devices are no multiple of the {_devices(cluster)} of cluster "
                f"{cluster.name}, which has several kinds of nodes"
            )
        more = (group.model_copy(update={"count": group.count * times}) for group in groups)
        return _with_nodes(cluster, *more)
    nodes = -(-devices // groups[0].device.count)
    each, rest = divmod(devices, nodes)
    if rest:
        raise UnusableRowError(
            f"{devices} devices are not whole nodes of {groups[0].device.count}, "
            f"nor {nodes} equal parts of some"
        )
    part = groups[0].device.model_copy(update={"count": each})
    return _with_nodes(cluster, groups[0].model_copy(update={"device": part, "count": nodes}))


def _with_nodes(cluster: Cluster, *groups: NodeGroup) -> Cluster:
    bare = {"hosts": ()}
    nodes = tuple(group.model_copy(update=bare) for group in groups)
    return cluster.model_copy(update={"nodes": nodes, "device": None, "nics": ()})


def _plan(case: Case, site: Site, workload: Workload, calibration: Calibration) -> CasePlan:
    assumed = list(case.assumed)
    recompute = case.recompute
    if recompute is None:
        recompute = "selective" if case.sharding in FULLY_SHARDED else "none"
        assumed.append(f"recompute unknown, taken as {recompute}")
    megatron = "megatron" in case.framework.lower()
    overlap = case.sharding in FULLY_SHARDED or "holmes" in case.framework.lower()
    wishes = Wishes(
        tensor=case.tp,
        pipeline=case.pp,
        data=case.dp,
        sharding=None,
        recompute=recompute,
        order="launch" if megatron or len(site.clusters) == 1 else "cluster",
        transport="common" if megatron else "per-group",
        partition="even",
        overlap=overlap,
        extra_warmup=0,
    )
    settings = settings_of(wishes, None)
    request = PlanRequest(
        name=f"row-{case.row}",
        site=site,
        workload=workload,
        global_batch=case.global_batch * case.cp,
        micro_batch=case.micro,
        wishes=wishes,
        calibration=calibration,
    )
    topology = Topology(site)
    layout = Layout(case.tp, case.pp, case.dp * case.cp)
    shape = Shape(layout, Batch(case.global_batch * case.cp, case.micro))
    tokens = case.sequence_parallel
    if case.tp > 1 and case.sharding in FULLY_SHARDED and not tokens:
        tokens = True
        assumed.append("tensor ranks hold activations split by tokens, as with sharded parameters")
    made = implementation_of(case.software)
    if fuses(case):
        assumed.append("on Hopper, attention kernels taken as the newest, as its software has them")
    execution = Execution(
        sequence_parallel=tokens,
        context=case.cp,
        compiled=case.compiled,
        async_tensor=case.async_tp,
        row_scales="rowwise" in case.precision,
        copies_tokens=made.copies_tokens,
        stops_early=made.stops_early,
        newest_attention=fuses(case),
    )
    cost = CostModel(topology, workload, calibration, execution=execution)
    ranks = _ranks(topology, layout, settings)
    ground = Ground(cost, layout, ranks, settings.transport)
    choice = Choice(recompute, _sharding(case, assumed), _schedule(case, assumed), case.interleave)
    estimates = Estimates(settings, shape, ground, choice)
    draft = Draft(request, settings, estimates, _borders(case, workload), (0,) * (case.pp - 1))
    if estimates.shard:
        sizes = " and ".join(map(str, estimates.shard))
        assumed.append(f"{case.sharding} groups not stated, taken as {sizes} replicas")
    return CasePlan(case, draft.plan, cost, tuple(assumed))


def _sharding(case: Case, assumed: list[str]) -> Sharding:
    """The level that the run's exchanges are those of."""
    once = case.pp > 1 and implementation_of(case.software).gathers_once
    if once and case.sharding == "parameters":
        assumed.append("sharded parameters gathered once a step, as its code does in a pipeline")
        return "optimizer"
    return case.sharding


def _schedule(case: Case, assumed: list[str]) -> ScheduleName:
    """The schedule that the row states, where it can have the row's stages."""
    usual: ScheduleName = "interleaved" if case.interleave > 1 else "1f1b"
    stated = case.schedule or usual
    if (stated in WITH_VIRTUAL_STAGES) == (case.interleave > 1):
        return stated
    assumed.append(f"schedule {stated} with {case.interleave} stage(s) a rank taken as {usual}")
    return usual


def _ranks(topology: Topology, layout: Layout, settings: Settings) -> RankMap:
    """In launch order a tensor group may leave its node, as some runs of a sweep do."""
    if settings.order == "launch":
        return tuple(range(layout.devices))
    return rank_maps(topology, layout, settings.order)[0]


def _borders(case: Case, workload: Workload) -> Borders:
    blocks = len(workload.blocks)
    held_by = list(case.stage_layers)
    if sum(held_by) == case.layers and held_by:
        held_by[0], held_by[-1] = held_by[0] + 1, held_by[-1] + 1
    if len(held_by) == case.pp * case.interleave > 1:
        if sum(held_by) != blocks:
            raise UnusableRowError(f"layers_per_stage do not add up to {blocks} blocks")
        borders, start = [], 0
        for held in held_by:
            borders.append((start, start + held))
            start += held
        return tuple(borders)
    return even(workload.blocks, case.pp * case.interleave)
