"""Small hand-made plans: one Ethernet cluster, any tp x pp x dp, a tiny GPT or Llama."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from holmes.hardware.site import Fabric, Site
from holmes.hardware.topology import Topology
from holmes.models.gpt.describe import GptConfig
from holmes.models.llama.config import LlamaConfig
from holmes.models.registry import describe
from holmes.plan.boundary import split_samples
from holmes.plan.layout import Layout
from holmes.plan.plan import Batch, Group, Plan, Predicted, ScheduleChoice, Stage, Transport
from holmes.plan.program import program_of
from holmes.planner.groups import memberships
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
    tp: int = 1
    family: str = "gpt"
    heads: int = 2
    key_heads: int = 2
    vocabulary: int = 40
    attention: str = "fused"
    cp: int = 1
    algorithm: str = "ring"
    sequence: int = 8
    hidden: int = 16
    positions: str = "learned"
    window: int | None = None
    apart: bool = False
    """Two documents in every sample, kept apart."""
    meshes: tuple[tuple[int, int], ...] = ()
    """(tp, dp) of each pipeline rank; the micro-batch is divided over the replicas of each."""
    scatter_gather: bool = True
    chunks: int = 1
    shard: tuple[int, ...] = ()
    quantize: str = "none"
    loss_scale: float | None = None
    hidden: int = 16
    frozen: tuple[str, ...] = ()
    """Parameters that are not trained."""
    integer_gradients: bool = False
    """Each micro-batch's gradients are whole numbers, so that all orders of a sum agree."""

    @property
    def config(self) -> GptConfig | LlamaConfig:
        sizes: dict[str, Any] = {
            "layers": self.layers,
            "hidden": self.hidden,
            "heads": self.heads,
            "sequence": self.sequence,
            "vocabulary": self.vocabulary,
            "tied": self.tied,
            "attention": self.attention,
        }
        if self.family == "llama":
            return LlamaConfig(**sizes, key_heads=self.key_heads, window=self.window)
        return GptConfig(**sizes, positions=self.positions)

    @property
    def layout(self) -> Layout:
        return Layout(tp=self.tp, pp=self.pp, dp=self.dp, cp=self.cp, shard=tuple(self.shard))

    @property
    def layouts(self) -> list[Layout]:
        """Of each pipeline rank."""
        degrees = self.meshes or ((self.tp, self.dp),) * self.pp
        return [
            Layout(tp=tp, pp=self.pp, dp=dp, cp=self.cp, shard=tuple(self.shard))
            for tp, dp in degrees
        ]

    @property
    def world(self) -> int:
        return sum(layout.tp * layout.dp * layout.cp for layout in self.layouts)


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
    load = describe(spec.family).workload(spec.config, spec.precision)
    samples = spec.micro * spec.dp
    most = max(layout.dp for layout in spec.layouts)
    bare = Plan(
        name="test",
        site=site_of(spec.world),
        workload=load,
        batch=Batch(samples * spec.microbatches, -(-samples // most)),
        layout=None if spec.meshes else spec.layout,
        sharding=spec.sharding,  # type: ignore[arg-type]
        recompute=spec.recompute,  # type: ignore[arg-type]
        rank_map=tuple(range(spec.world)),
        stages=tuple(_stages(spec, load)),
        groups=(),
        quantize=spec.quantize,  # type: ignore[arg-type]
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
        scatter_gather=spec.scatter_gather,
        tensor_chunks=spec.chunks,
        context_algorithm=spec.algorithm,  # type: ignore[arg-type]
    )
    plan = replace(bare, groups=tuple(_groups(bare)))
    digest = program_of(plan, check=False).digest
    return replace(plan, schedule=replace(plan.schedule, digest=digest))


def _stages(spec: Spec, load: Workload) -> list[Stage]:
    total = len(load.blocks)
    count = spec.pp * spec.virtual
    borders = [0, *(spec.cuts or (total * (i + 1) // count for i in range(count - 1))), total]
    stages: list[Stage] = []
    for index in range(count):
        start, stop = borders[index], borders[index + 1]
        layout = spec.layouts[index % spec.pp]
        first = sum(one.tp * one.dp * one.cp for one in spec.layouts[: index % spec.pp])
        ranks = tuple(range(first, first + layout.tp * layout.dp * layout.cp))
        shares = split_samples(spec.micro, layout.dp) if spec.meshes else ()
        before = sum(len(stage.buckets) for stage in stages[index % spec.pp :: spec.pp])
        buckets = tuple(
            replace(bucket, index=before + bucket.index)
            for bucket in _buckets(start, stop, load, spec)
        )
        stages.append(Stage(index, (start, stop), layout, ranks, "c", buckets, shares))
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


def _groups(plan: Plan) -> list[Group]:
    found = memberships(plan)
    return [_group(plan, member.name, member.axis, member.ranks) for member in found]


def _group(plan: Plan, name: str, axis: Any, ranks: tuple[int, ...]) -> Group:
    nodes = Topology(plan.site).nodes
    interfaces = {nodes[rank].name: nodes[rank].interfaces(Fabric.ETHERNET) for rank in ranks}
    return Group(name, axis, ranks, Transport(Fabric.ETHERNET), interfaces, 0)
