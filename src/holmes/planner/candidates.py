"""Which layouts and micro-batch sizes there are, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.plan.layout import Layout, Recompute, ScheduleName, Sharding
from holmes.plan.plan import Batch, Rejected
from holmes.planner.partition import check_stage_count
from holmes.planner.request import PlanRequest
from holmes.planner.schedules import schedules_of
from holmes.planner.settings import NESTED, Settings
from holmes.schedule.generate import generate

LARGEST_MICRO = 16
"""Micro-batches tried when their size is free: powers of two up to here."""


LEAST_TOKENS = 512
"""Tokens of a sample that a context rank holds at least, unless its degree is fixed."""


@dataclass(frozen=True)
class Shape:
    """A layout with its batch: what fixes the work of every device but for the partition."""

    layout: Layout
    batch: Batch

    @property
    def microbatches(self) -> int:
        """Micro-batches per step and replica."""
        return self.batch.global_ // (self.batch.micro * self.layout.dp)

    def __str__(self) -> str:
        return f"{name_of(self.layout)}, micro {self.batch.micro}"


@dataclass(frozen=True)
class Choice:
    """What is decided beside the shape. ``sequence``: tensor ranks divide activations too."""

    recompute: Recompute = "none"
    sharding: Sharding = "optimizer"
    schedule: ScheduleName = "1f1b"
    virtual_stages: int = 1
    sequence: bool = False

    def __str__(self) -> str:
        text: str = self.schedule
        if self.virtual_stages > 1:
            text += f" x {self.virtual_stages}"
        if self.recompute != "none":
            text += f", recompute {self.recompute}"
        if self.sequence:
            text += ", sequence parallel"
        return text if self.sharding == "optimizer" else f"{text}, sharding {self.sharding}"


@dataclass
class Enumeration:
    """Layouts with the micro-batch sizes of each, and what was ruled out on the way."""

    layouts: list[tuple[Layout, tuple[int, ...]]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def enumerate_layouts(request: PlanRequest, settings: Settings, topology: Topology) -> Enumeration:
    """Every layout of all devices of the site with every micro-batch size.

    Raises:
        ConfigError: when nothing is left, with the reason of the only or first refusal.
    """
    found = Enumeration()
    refusals: list[ConfigError] = []
    for layout in _layouts(request, settings, topology):
        try:
            _check_layout(request, settings, layout, topology)
            micros = _scheduled(request, settings, layout)
        except ConfigError as error:
            refusals.append(error)
            reason = error.what if error.why is None else f"{error.what}: {error.why}"
            found.rejected.append(Rejected(name_of(layout), reason))
            continue
        found.layouts.append((layout, micros))
    if not found.layouts:
        raise refusals[0]
    return found


def name_of(layout: Layout) -> str:
    """`tp 1 x pp 2 x dp 2`, with the context and the expert degree where there is one."""
    text = f"tp {layout.tp} x pp {layout.pp} x dp {layout.dp}"
    more = {"cp": layout.cp, "ep": layout.ep}
    return text + "".join(f" x {axis} {n}" for axis, n in more.items() if n > 1)


def _layouts(request: PlanRequest, settings: Settings, topology: Topology) -> list[Layout]:
    wishes, sequence = request.wishes, request.workload.sequence
    devices = len(topology.devices)
    found = [
        Layout(tp=tp, pp=pp, dp=devices // (tp * pp * cp), cp=cp)
        for cp in _context(wishes.context, devices, sequence, "context" in settings.axes)
        for tp in _degrees(wishes.tensor, devices, "tensor" in settings.axes)
        for pp in _degrees(wishes.pipeline, devices, "pipeline" in settings.axes)
        if devices % (tp * pp * cp) == 0
    ]
    found = [layout for layout in found if wishes.data in (None, layout.dp)]
    if "data" not in settings.axes:
        found = [layout for layout in found if layout.dp == 1]
    if found:
        return [one for layout in found for one in _with_experts(request, settings, layout)]
    given = {
        key: degree
        for key, degree in (
            ("tensor", wishes.tensor),
            ("pipeline", wishes.pipeline),
            ("data", wishes.data),
            ("context", wishes.context),
        )
        if degree is not None
    }
    text = " x ".join(f"{key} {degree}" for key, degree in given.items())
    product = 1
    for degree in given.values():
        product *= degree
    raise ConfigError(
        f"the layout {text} does not use the {devices} devices of site {topology.site.name!r}",
        where="parallel." + ", parallel.".join(given),
        why=f"its degrees multiply to {product}, "
        + ("which is not" if len(given) >= 3 else "which does not divide")
        + f" {devices}; no device may be left idle",
        next_step=f"choose degrees whose product is {devices}, or change the site's nodes",
    )


def _with_experts(request: PlanRequest, settings: Settings, layout: Layout) -> list[Layout]:
    """A layout with every degree in which its replicas can share the experts of a layer."""
    wish, workload = request.wishes.expert, request.workload
    if wish is not None:
        return [replace(layout, ep=wish)]
    if not workload.experts or "expert" not in settings.axes or request.wishes.sharding in NESTED:
        return [layout]
    replicas = layout.replicas
    degrees = range(1, min(replicas, workload.experts) + 1)
    return [
        replace(layout, ep=ep) for ep in degrees if workload.expert_obstacle(replicas, ep) is None
    ]


def _degrees(wish: int | None, devices: int, allowed: bool) -> list[int]:
    if wish is not None:
        return [wish]
    if not allowed:
        return [1]
    return [degree for degree in range(1, devices + 1) if devices % degree == 0]


def _context(wish: int | None, devices: int, sequence: int, allowed: bool) -> list[int]:
    """Context degrees that leave every rank enough tokens to fill its kernels."""
    degrees = _degrees(wish, devices, allowed)
    most = max(1, sequence // LEAST_TOKENS)
    return degrees if wish is not None else [degree for degree in degrees if degree <= most]


def _check_layout(
    request: PlanRequest, settings: Settings, layout: Layout, topology: Topology
) -> None:
    """Refuse what no partition or placement can save.

    Raises:
        ConfigError: heads, node size or stage count do not allow this layout.
    """
    workload = request.workload
    obstacle = workload.tensor_obstacle(layout.tp, layout.cp)
    if obstacle is not None:
        raise ConfigError(
            obstacle,
            where="parallel.tensor",
            why="each tensor rank holds whole heads, and equal parts of all else",
            next_step="use a degree that divides heads, sequence and MLP width",
        )
    _check_experts(request, layout)
    largest = max(node.device.count for node in topology.nodes)
    if layout.tp > largest:
        raise ConfigError(
            f"tensor groups of {layout.tp} do not fit inside a node of {largest} devices",
            where="parallel.tensor",
            why="tensor collectives run inside every block, so they stay inside a node",
            next_step=f"use at most {largest}",
        )
    obstacles = [
        workload.context_obstacle(algorithm, layout.tp, layout.cp)
        for algorithm in settings.algorithms
    ]
    if all(obstacles):
        raise ConfigError(
            str(obstacles[0]),
            where="parallel.context",
            why="each context rank needs tokens of a sample, and with ulysses whole heads",
            next_step="use fewer context ranks, or parallel.context_algorithm=ring",
        )
    check_stage_count(len(workload.blocks), layout.pp)


def _check_experts(request: PlanRequest, layout: Layout) -> None:
    """Refuse expert ranks that these replicas or this model cannot be.

    Raises:
        ConfigError: what does not divide, or groups inside the replicas beside them.
    """
    obstacle = request.workload.expert_obstacle(layout.replicas, layout.ep)
    if obstacle is not None:
        raise ConfigError(
            obstacle,
            where="parallel.expert, parallel.data, parallel.context",
            why="each expert rank holds whole experts, as many as every other of its group, and "
            "the groups are made of replicas (data x context ranks)",
            next_step="use a degree that divides experts and replicas, or leave it out",
        )
    if layout.ep > 1 and request.wishes.sharding in NESTED:
        raise ConfigError(
            f"parallel.expert={layout.ep} with sharding {request.wishes.sharding}",
            where="parallel.expert, parallel.sharding",
            why="groups inside the replicas would hold different experts",
            next_step="leave one of them out, or use sharding optimizer, gradients or parameters",
        )


def _scheduled(request: PlanRequest, settings: Settings, layout: Layout) -> tuple[int, ...]:
    """Micro-batch sizes with which some schedule can run.

    Raises:
        ConfigError: when the batch does not divide, or no schedule can have these counts.
    """
    blocks, micros = len(request.workload.blocks), tuple(_micro_batches(request, layout))
    counts = [request.global_batch // (micro * layout.dp) for micro in micros]
    usable = tuple(
        micro
        for micro, count in zip(micros, counts, strict=True)
        if schedules_of(settings, layout.pp, count, blocks)
    )
    if not usable:
        virtual = settings.virtual_stages[0]
        check_stage_count(blocks, layout.pp * virtual)
        generate(settings.schedules[0], layout.pp, counts[0], virtual)
    return usable


def _micro_batches(request: PlanRequest, layout: Layout) -> Iterable[int]:
    """Micro-batch sizes that divide the share of one replica.

    Raises:
        ConfigError: when the batch does not divide; says which batches would.
    """
    total, dp = request.global_batch, layout.dp
    micro = request.micro_batch or 1
    unit = micro * dp
    if total % unit or total < unit:
        below, above = total // unit * unit, (total // unit + 1) * unit
        near = f"{below} or {above}" if below else str(above)
        raise ConfigError(
            f"a global batch of {total} does not divide into micro-batches of {micro} "
            f"over {dp} replicas",
            where="batch.global, batch.micro, parallel.data",
            why=f"it must be a multiple of {micro} x {dp} = {unit}",
            next_step=f"use batch.global={near}, or another batch.micro or parallel.data",
        )
    if request.micro_batch is not None:
        return [request.micro_batch]
    share = total // dp
    sizes = [2**k for k in range(LARGEST_MICRO.bit_length()) if 2**k <= LARGEST_MICRO]
    return [size for size in sizes if share % size == 0]
