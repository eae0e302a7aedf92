"""Small hand-made plans: one Ethernet cluster, any pp x dp, a tiny GPT."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from holmes.hardware.site import Fabric, Site
from holmes.hardware.topology import Topology
from holmes.models.gpt.describe import GptConfig, workload
from holmes.plan.layout import Layout
from holmes.plan.plan import Batch, Group, Plan, Predicted, ScheduleChoice, Stage, Transport
from holmes.plan.program import program_of
from holmes.schedule.instruction import Bucket
from holmes.workload.workload import Workload


@dataclass(frozen=True)
class Spec:
    """What a test varies; JSON-able, so that ranks get it as it is."""

    pp: int = 1
    dp: int = 1
    layers: int = 4
    tied: bool = False
    precision: str = "fp32"
    microbatches: int = 4
    micro: int = 2
    schedule: str = "1f1b"
    extra_warmup: int = 0
    overlap: bool = False
    sharding: str = "optimizer"
    recompute: str = "none"
    clip: float = 1.0
    steps: int = 3
    cuts: tuple[int, ...] = ()
    blocks_per_bucket: int = 2
    virtual: int = 1

    @property
    def config(self) -> GptConfig:
        return GptConfig(
            layers=self.layers, hidden=16, heads=2, sequence=8, vocabulary=40, tied=self.tied
        )


def site_of(nodes: int) -> Site:
    return Site.model_validate(
        {
            "name": "one",
            "clusters": [
                {
                    "name": "c",
                    "nodes": nodes,
                    "device": {"kind": "cpu-core"},
                    "nics": [{"kind": "ethernet", "gbit_s": 10}],
                }
            ],
        }
    )


def plan_of(spec: Spec) -> Plan:
    """The plan of a spec, with its digest."""
    load = workload(spec.config, spec.precision)  # type: ignore[arg-type]
    layout = Layout(pp=spec.pp, dp=spec.dp)
    stages = tuple(_stages(spec, layout, load))
    plan = Plan(
        name="test",
        site=site_of(layout.devices),
        workload=load,
        batch=Batch(spec.micro * spec.microbatches * spec.dp, spec.micro),
        layout=layout,
        sharding=spec.sharding,  # type: ignore[arg-type]
        recompute=spec.recompute,  # type: ignore[arg-type]
        rank_map=tuple(range(layout.devices)),
        stages=stages,
        groups=tuple(_groups(layout, stages)),
        schedule=ScheduleChoice(
            spec.schedule,  # type: ignore[arg-type]
            spec.microbatches,
            spec.virtual,
            spec.extra_warmup,
            "",
        ),
        order="launch",
        transport="common",
        partition="even",
        overlap=spec.overlap,
        predicted=Predicted(1.0, 1.0, 1.0, 1.0, 1.0, {}),
    )
    digest = program_of(plan, check=False).digest
    return replace(plan, schedule=replace(plan.schedule, digest=digest))


def _stages(spec: Spec, layout: Layout, load: Workload) -> list[Stage]:
    total = len(load.blocks)
    count = spec.pp * spec.virtual
    borders = [0, *(spec.cuts or (total * (i + 1) // count for i in range(count - 1))), total]
    stages: list[Stage] = []
    for index in range(count):
        start, stop = borders[index], borders[index + 1]
        ranks = tuple(layout.rank(index % spec.pp, d) for d in range(spec.dp))
        before = sum(len(stage.buckets) for stage in stages[index % spec.pp :: spec.pp])
        buckets = tuple(
            replace(bucket, index=before + bucket.index)
            for bucket in _buckets(start, stop, load, spec)
        )
        stages.append(Stage(index, (start, stop), layout, ranks, "c", buckets))
    return stages


def _buckets(start: int, stop: int, load: Workload, spec: Spec) -> list[Bucket]:
    """A tied block alone in its bucket; the others in twos (or as the spec says)."""
    tied = set(load.tied or ()) if spec.pp > 1 else set()
    ranges: list[tuple[int, int]] = []
    for block in range(start, stop):
        alone = block in tied or (ranges and ranges[-1][0] in tied)
        if ranges and not alone and ranges[-1][1] - ranges[-1][0] < spec.blocks_per_bucket:
            ranges[-1] = (ranges[-1][0], block + 1)
        else:
            ranges.append((block, block + 1))
    found = []
    for index, (low, high) in enumerate(ranges):
        elements = sum(block.parameters for block in load.blocks[low:high])
        if load.tied and spec.pp == 1 and low <= load.tied[1] < high:
            elements -= load.tied_parameters
        marked = low in tied
        size = load.tied_parameters if marked else 0
        found.append(Bucket(index, (low, high), elements, marked, size))
    return found


def _groups(layout: Layout, stages: tuple[Stage, ...]) -> list[Group]:
    wanted: list[tuple[str, str, tuple[int, ...]]] = [
        ("world", "world", tuple(range(layout.devices)))
    ]
    if layout.dp > 1:
        wanted += [(f"data.s{s.stage}", "data", s.ranks) for s in stages[: layout.pp]]
    for before, after in itertools.pairwise(stages[: layout.pp + 1]):
        pairs = zip(before.ranks, after.ranks, strict=True)
        wanted += [(f"pipeline.{a}-{b}", "pipeline", (min(a, b), max(a, b))) for a, b in pairs]
    if any(bucket.tied for bucket in stages[0].buckets):
        ends = zip(stages[0].ranks, stages[-1].ranks, strict=True)
        wanted += [(f"tied.{d}", "tied", pair) for d, pair in enumerate(ends)]
    return [_group(layout, *one) for one in wanted if len(one[2]) > 1]


def _group(layout: Layout, name: str, axis: Any, ranks: tuple[int, ...]) -> Group:
    nodes = Topology(site_of(layout.devices)).nodes
    interfaces = {nodes[rank].name: nodes[rank].interfaces(Fabric.ETHERNET) for rank in ranks}
    return Group(name, axis, ranks, Transport(Fabric.ETHERNET), interfaces, 0)
