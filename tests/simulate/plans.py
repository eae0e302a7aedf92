"""Plans made by hand: every figure chosen, so that closed forms are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from holmes.cost.calibration import (
    LAB,
    BlockTime,
    Calibration,
    CollectiveStyle,
    LinkCalibration,
)
from holmes.cost.model import CostModel
from holmes.cost.network import Network, Traffic
from holmes.hardware.site import Cluster, Device, Fabric, Link, Nic, Site
from holmes.hardware.topology import Topology
from holmes.plan.layout import Layout, Sharding
from holmes.plan.plan import Batch, Group, Plan, Predicted, ScheduleChoice, Stage, Transport
from holmes.plan.program import program_of
from holmes.schedule.instruction import Bucket
from holmes.workload.workload import Block, Segment, Workload

IDEAL = LinkCalibration(1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Case:
    """A pipeline with one block per bucket; times in seconds, rates in bytes per second.

    ``forward[s]`` and ``backward[s]`` are per stage and micro-batch, spread evenly
    over its ``blocks[s]`` blocks; stages are virtual ones, ``virtual`` on each rank.
    Every pipeline rank and replica has a node of its own. The two clusters hold the
    first and the second half of the pipeline ranks.
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    microbatches: int
    dp: int = 1
    blocks: tuple[int, ...] = ()
    boundary_bytes: float = 0.0
    parameters: int = 0
    fast: float = 1e9
    ethernet: float = 1e9
    schedule: str = "1f1b"
    extra_warmup: tuple[int, ...] = ()
    overlap: bool = False
    latency: float = 0.0
    style: CollectiveStyle = "direct"
    sharding: Sharding = "optimizer"
    step_seconds_per_element: float = 0.0
    shared_nodes: bool = False
    link: float | None = None
    tied: bool = False
    virtual: int = 1

    @property
    def stages(self) -> int:
        return len(self.forward)

    @property
    def pipeline(self) -> int:
        return self.stages // self.virtual

    @property
    def blocks_per_stage(self) -> tuple[int, ...]:
        return self.blocks or (1,) * self.stages


def gbit(bytes_per_second: float) -> float:
    return bytes_per_second * 8e-9


def site_of(case: Case) -> Site:
    stages, dp = case.pipeline, case.dp
    half = max(1, stages // 2)
    clusters = []
    for name, count, kind in (
        ("ib", half, Fabric.INFINIBAND),
        ("roce", stages - half, Fabric.ROCE),
    ):
        if count:
            nics = (
                Nic(kind=kind, gbit_s=gbit(case.fast)),
                Nic(kind=Fabric.ETHERNET, gbit_s=gbit(case.ethernet)),
            )
            devices = dp if case.shared_nodes else 1
            nodes = count if case.shared_nodes else count * dp
            device = Device(kind="cpu-core", count=devices)
            clusters.append(Cluster(name=name, nodes=nodes, device=device, nics=nics))
    links: tuple[Link, ...] = ()
    if len(clusters) > 1:
        rate = gbit(case.link) if case.link else 1e6
        links = (Link(between=("ib", "roce"), kind=Fabric.ETHERNET, gbit_s=rate, latency_us=1e-6),)
    return Site(name="by-hand", clusters=tuple(clusters), links=links)


def workload_of(case: Case) -> Workload:
    total = sum(case.blocks_per_stage)
    blocks = tuple(
        Block(
            name=f"block.{i}",
            kind="transformer",
            parameters=case.parameters,
            tensors=1,
            inner=(Segment("matmul", 1e9, 1e6),),
            activation_bytes={"none": 1e6, "selective": 1e6, "full": 1e5},
            output_bytes=case.boundary_bytes,
        )
        for i in range(total)
    )
    return Workload("by-hand", "gpt", 8, 8, 1, 32, blocks)


def calibration_of(case: Case) -> Calibration:
    link = replace(IDEAL, latency_seconds=case.latency)
    return Calibration(
        name="by-hand",
        source="test",
        compute=LAB.compute,
        network=dict.fromkeys(("infiniband", "roce", "ethernet", "intra-node"), link),
        collectives=case.style,
        optimizer_seconds_per_element=case.step_seconds_per_element,
    )


@dataclass(frozen=True)
class DictatedCost(CostModel):
    """Block times as the case says, by block."""

    times: tuple[BlockTime, ...] = ()

    def block_time(self, block_index, slot, micro, tp=1, recompute="none"):  # type: ignore[no-untyped-def]
        return self.times[block_index].scaled(1.0 / slot.node.device.speed)


class DelayNetwork(Network):
    """A network in which every operation takes its own time and nothing is shared."""

    def transfer(self, source, target, bytes_, fabric):  # type: ignore[no-untyped-def]
        return Traffic(*_alone(super().transfer(source, target, bytes_, fabric)))

    def collective(self, op, ranks, bytes_, fabric):  # type: ignore[no-untyped-def]
        return Traffic(*_alone(super().collective(op, ranks, bytes_, fabric)))


def _alone(traffic: Traffic) -> tuple[float, tuple[()], float]:
    return traffic.seconds, (), traffic.seconds


class UncontendedCost(DictatedCost):
    """Dictated block times over a :class:`DelayNetwork`."""

    def network(self, rank_map):  # type: ignore[no-untyped-def]
        return DelayNetwork(self.topology, rank_map, self.calibration, self.rates)


def make(case: Case, kind: type[DictatedCost] = DictatedCost) -> tuple[Plan, DictatedCost]:
    """The plan of a case and a cost model that knows its times."""
    site, workload = site_of(case), workload_of(case)
    times: list[BlockTime] = []
    for f, b, count in zip(case.forward, case.backward, case.blocks_per_stage, strict=True):
        times += [BlockTime(f / count, b / count)] * count
    plan = plan_of(case, site, workload)
    return plan, kind(Topology(site), workload, calibration_of(case), None, tuple(times))


def plan_of(case: Case, site: Site, workload: Workload) -> Plan:
    pipeline, dp = case.pipeline, case.dp
    layout = Layout(pp=pipeline, dp=dp)
    world = pipeline * dp
    ranks = [tuple(layout.rank(r, d) for d in range(dp)) for r in range(pipeline)]
    made: list[Stage] = []
    start = 0
    for s, count in enumerate(case.blocks_per_stage):
        first = sum(case.blocks_per_stage[s % pipeline : s : pipeline])
        buckets = tuple(
            Bucket(
                first + i, (start + i, start + i + 1), case.parameters, _is_tied(case, s, i, count)
            )
            for i in range(count)
        )
        made.append(Stage(s, (start, start + count), layout, ranks[s % pipeline], "ib", buckets))
        start += count
    draft = Plan(
        name="by-hand",
        site=site,
        workload=workload,
        batch=Batch(case.microbatches * dp, 1),
        layout=layout,
        sharding=case.sharding,
        recompute="none",
        rank_map=tuple(range(world)),
        stages=tuple(made),
        groups=tuple(_groups(ranks, case)),
        schedule=ScheduleChoice(
            case.schedule,  # type: ignore[arg-type]
            case.microbatches,
            case.virtual,
            0,
            "",
            case.extra_warmup,
        ),
        order="cluster",
        transport="per-group",
        partition="even",
        overlap=case.overlap,
        predicted=Predicted(0, 0, 0, 0, 0, {}),
    )
    digest = program_of(draft, check=False).digest
    return replace(draft, schedule=replace(draft.schedule, digest=digest))


def _is_tied(case: Case, stage: int, index: int, count: int) -> bool:
    first = stage == 0 and index == 0
    last = stage == case.stages - 1 and index == count - 1
    return case.tied and (first or last)


def _groups(ranks: Sequence[tuple[int, ...]], case: Case) -> list[Group]:
    half = max(1, len(ranks) // 2)
    ethernet = Transport(Fabric.ETHERNET)
    fast = [Transport(Fabric.INFINIBAND if s < half else Fabric.ROCE) for s in range(len(ranks))]
    everyone = tuple(rank for stage in ranks for rank in stage)
    groups = [Group("world", "world", everyone, ethernet, {}, 0)]
    for s, members in enumerate(ranks):
        if len(members) > 1:
            groups.append(Group(f"data.s{s}", "data", members, fast[s], {}, 0))
    cuts = [(s, s + 1) for s in range(len(ranks) - 1)]
    if case.virtual > 1:
        cuts.append((len(ranks) - 1, 0))
    for s, below in cuts:
        same = (s < half) == (below < half)
        for a, b in zip(ranks[s], ranks[below], strict=True):
            transport = fast[s] if same else ethernet
            groups.append(Group(f"pipeline.{a}-{b}", "pipeline", (a, b), transport, {}, 0))
    if case.tied:
        for d, (a, b) in enumerate(zip(ranks[0], ranks[-1], strict=True)):
            groups.append(Group(f"tied.{d}", "tied", (a, b), ethernet, {}, 0))
    return groups
