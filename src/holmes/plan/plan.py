"""Plan: a frozen, self-contained, serialisable value. The runtime decides nothing beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from holmes.hardware.site import Fabric, Site
from holmes.plan.chunks import chunk_width
from holmes.plan.layout import (
    ContextAlgorithm,
    Layout,
    Order,
    PartitionRule,
    Quantize,
    Recompute,
    ScheduleName,
    Sharding,
    TransportRule,
)
from holmes.schedule.instruction import Bucket
from holmes.workload.workload import Workload

SCHEMA_VERSION = 1
Axis = Literal["tensor", "pipeline", "data", "context", "expert", "tied", "world"]


@dataclass(frozen=True)
class Transport:
    """What a process group uses.

    ``fabric`` is the NIC kind, or None when all members share one node (then
    device links or loopback carry it). ``net_name`` is the NCCL network module
    (``IB`` serves InfiniBand and RoCE verbs, ``Socket`` TCP).
    """

    fabric: Fabric | None

    @property
    def name(self) -> str:
        return "intra-node" if self.fabric is None else self.fabric.value

    @property
    def net_name(self) -> str | None:
        if self.fabric is None:
            return None
        return "Socket" if self.fabric is Fabric.ETHERNET else "IB"


@dataclass(frozen=True)
class Group:
    """A process group: members in rank order, transport, NIC names per node.

    ``bytes_per_step`` is the payload that all members together send per step.
    Names: ``data.s<stage>`` after the first stage of its ranks
    (``data.s<stage>.t<tensor>`` with tensor ranks; with ``.near<n>``, ``.far`` or ``.side``
    and its first member behind it where states are sharded over a part of it, with
    ``.e<n>`` of those that hold the n-th part of the experts),
    ``pipeline.<a>-<b>`` for a pair of ranks at a cut, the upper stage's first,
    ``tied.<data index>`` (one ``tied`` where stages differ), ``tensor.<first rank>``,
    ``context.<first rank>``, ``expert.<first rank>``, ``world``.
    """

    name: str
    axis: Axis
    ranks: tuple[int, ...]
    transport: Transport
    interfaces: dict[str, tuple[str, ...]]
    bytes_per_step: int


@dataclass(frozen=True)
class Stage:
    """One virtual pipeline stage: half-open range of blocks, its ranks and cluster(s).

    ``layout`` has this stage's own degrees; all stages of a plan agree on ``pp``.
    ``samples`` of a micro-batch go to each replica in turn; empty: the plan's micro each.
    """

    stage: int
    blocks: tuple[int, int]
    layout: Layout
    ranks: tuple[int, ...]
    cluster: str
    buckets: tuple[Bucket, ...] = ()
    samples: tuple[int, ...] = ()

    @property
    def replicas(self) -> int:
        """Data-parallel replicas of the stage."""
        return len(self.ranks) // (self.layout.tp * self.layout.cp)

    @property
    def leaders(self) -> tuple[int, ...]:
        """The first rank of each replica."""
        return self.ranks[:: self.layout.tp * self.layout.cp]

    def data_index(self, rank: int) -> int:
        """The replica that a logical rank of the stage belongs to."""
        return self.ranks.index(rank) // (self.layout.tp * self.layout.cp)


@dataclass(frozen=True)
class ScheduleChoice:
    """Schedule by name: instruction lists are regenerated from it and checked by digest."""

    name: ScheduleName
    microbatches: int
    virtual_stages: int
    extra_warmup: int
    digest: str
    extra_warmup_per_cut: tuple[int, ...] = ()


@dataclass(frozen=True)
class Predicted:
    """What the cost model and the simulator say of this plan.

    ``low`` and ``high`` bound the step time; ``source`` names the calibration.
    ``bytes_per_step`` is payload sent per NIC kind, summed over all nodes.
    """

    step_seconds: float
    low: float
    high: float
    tflops_per_device: float
    samples_per_second: float
    memory_bytes: dict[int, int]
    bytes_per_step: dict[str, int] = field(default_factory=dict)
    bubble_fraction: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class SearchSummary:
    """How the plan was found.

    Attributes:
        enumerated: different candidates, those equal by symmetry counted once.
        pruned: ruled out by a memory bound or a rule before any score.
        evaluated: scored, time and memory both.
        feasible: of those, how many fit in memory.
        priced: predictions of finalists by the closed form or the event simulator.
        gap: by how much at most an unpriced candidate could be faster, as a fraction.
    """

    enumerated: int = 0
    pruned: int = 0
    evaluated: int = 0
    feasible: int = 0
    cpu_seconds: float = 0.0
    priced: int = 0
    gap: float = 0.0

    def __add__(self, other: SearchSummary) -> SearchSummary:
        """Two searches for one answer; the gap is that of the first."""
        return SearchSummary(
            self.enumerated + other.enumerated,
            self.pruned + other.pruned,
            self.evaluated + other.evaluated,
            self.feasible + other.feasible,
            round(self.cpu_seconds + other.cpu_seconds, 4),
            self.priced + other.priced,
            self.gap,
        )


@dataclass(frozen=True)
class Rejected:
    """A layout that lost, and why."""

    layout: str
    reason: str
    step_seconds: float | None = None


@dataclass(frozen=True)
class Batch:
    """Samples per step over all replicas, and per micro-batch and replica.

    Where the stages of a plan have unequal replicas, ``micro`` is the most of any replica
    of the stage with the most of them.
    """

    global_: int
    micro: int


@dataclass(frozen=True)
class Plan:
    """Rank map, groups with their transport, stages, schedule, and the reasons.

    ``layout`` is None where stages differ: each stage has its own. ``scatter_gather`` says
    whether tensor ranks pass on their own tokens alone, or all tokens each. ``tensor_chunks``
    are the parts of a rank's tokens whose tensor collectives run beside products.
    """

    name: str
    site: Site
    workload: Workload
    batch: Batch
    layout: Layout | None
    sharding: Sharding
    recompute: Recompute
    rank_map: tuple[int, ...]
    stages: tuple[Stage, ...]
    groups: tuple[Group, ...]
    schedule: ScheduleChoice
    order: Order
    transport: TransportRule
    partition: PartitionRule
    overlap: bool
    predicted: Predicted
    search: SearchSummary = SearchSummary()
    rejected: tuple[Rejected, ...] = ()
    explain: tuple[str, ...] = ()
    placement_name: str = "planned"
    calibration: dict[str, Any] = field(default_factory=dict)
    sequence_parallel: bool = False
    scatter_gather: bool = True
    tensor_chunks: int = 1
    context_algorithm: ContextAlgorithm = "ring"
    quantize: Quantize = "none"
    schema_version: int = SCHEMA_VERSION

    @cached_property
    def group_by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @property
    def pp(self) -> int:
        """Pipeline ranks."""
        return len(self.stages) // self.schedule.virtual_stages

    @property
    def tensor(self) -> int:
        """The tensor degree that all stages have; 1 where they differ."""
        return 1 if self.layout is None else self.layout.tp

    @property
    def context(self) -> int:
        """The context degree of all stages."""
        return 1 if self.layout is None else self.layout.cp

    @property
    def expert(self) -> int:
        """The expert degree of all stages."""
        return 1 if self.layout is None else self.layout.ep

    @property
    def tokens_held(self) -> int:
        """Tokens of a sample that a context rank holds, padding included."""
        if self.context == 1:
            return self.workload.sequence
        return chunk_width(self.workload.sequence, self.context, self.tensor)

    @property
    def padding(self) -> float:
        """Tokens that context ranks hold together over those of a sample."""
        return self.tokens_held * self.context / self.workload.sequence

    @property
    def degrees(self) -> dict[str, int | str]:
        """tp, pp and dp, and cp and ep above 1; by stage, joined by ``+``, where stages differ."""
        held = [stage.layout for stage in self.stages[: self.pp]]
        if self.layout is not None:
            found: dict[str, int | str] = {
                "tp": self.layout.tp,
                "pp": self.pp,
                "dp": self.layout.dp,
            }
            more = {"cp": self.context, "ep": self.expert}
            return found | {axis: degree for axis, degree in more.items() if degree > 1}
        tensor, data = ("+".join(str(getattr(one, k)) for one in held) for k in ("tp", "dp"))
        return {"tp": tensor, "pp": self.pp, "dp": data}

    @property
    def round_samples(self) -> int:
        """Samples of one micro-batch on all replicas of a stage together."""
        return self.batch.global_ // self.schedule.microbatches

    def samples(self, stage: Stage) -> tuple[int, ...]:
        """Samples of a micro-batch on each replica of a stage."""
        return stage.samples or (self.batch.micro,) * stage.replicas

    def samples_of(self, rank: int) -> tuple[int, int]:
        """Which samples of a micro-batch a logical rank computes: [first, last) of
        :attr:`round_samples`."""
        stage = next(stage for stage in self.stages if rank in stage.ranks)
        shares, index = self.samples(stage), stage.data_index(rank)
        first = sum(shares[:index])
        return first, first + shares[index]

    @property
    def world_size(self) -> int:
        return len(self.rank_map)
