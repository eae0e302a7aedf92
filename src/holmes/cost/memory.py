"""Bytes of memory per rank: states, activations in flight, buffers, margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from holmes.plan.layout import Layout, Recompute, Sharding
from holmes.plan.plan import Plan
from holmes.plan.program import schedule_of
from holmes.schedule.instruction import Schedule
from holmes.schedule.sharding import Shards
from holmes.schedule.timeline import activation_peaks
from holmes.workload.workload import Block, Workload

BlockRange = tuple[int, int]

MARGIN = 0.06
"""Fragmentation and small buffers, on top of what is counted."""
RUNTIME_BYTES = 600_000_000
"""A process without a model: libraries, device context (assumed; a CPU rank with torch
alone measured 300-590 MiB)."""
COMMUNICATOR_BYTES = 600_000_000
"""What NCCL holds on the device for each axis that a rank communicates on, and for the world:
staging buffers of its channels. Chosen with the memory figures of GH200 runs at micro-batch 1."""
HALF = 2
"""Bytes of an element in half precision, which only accelerators compute in."""
BOUNDARY_BUFFERS = 2
"""Boundary activations and gradients received ahead, per direction."""
EXPERT_BUFFERS = 2
"""Tokens sent to experts on other ranks, and tokens received for its own."""
WHOLE_SHARE = 10 / 34
WAITING_SHARE = 22 / 34
GATHERED_LAYERS = 2
"""Blocks whose parameters are whole at once when they are sharded: one computes, one arrives."""
GRADIENT_BUCKETS = 3
"""Blocks whose gradients are whole at once when they are sharded: one is computed, one reduced,
and what arrives for it."""


@dataclass(frozen=True)
class MemoryParts:
    """Peak bytes of one rank by what they are for."""

    states: float
    activations: float
    working: float = 0.0
    boundary: float = 0.0
    exchange: float = 0.0
    runtime: float = 0.0

    @property
    def total(self) -> int:
        """All of it, with the allocator's margin on what is counted."""
        counted = self.states + self.activations + self.working + self.boundary + self.exchange
        return int(counted * (1 + MARGIN) + self.runtime)


def memory_bytes(plan: Plan) -> dict[int, int]:
    """Peak bytes of each logical rank."""
    return {
        rank: parts.total
        for stage, parts in zip(plan.stages, memory_parts(plan), strict=False)
        for rank in stage.ranks
    }


def memory_parts(plan: Plan) -> tuple[MemoryParts, ...]:
    """The parts of each pipeline rank of a plan, for one of its logical ranks
    that hold the most samples."""
    cp, workload = plan.context, plan.workload
    if cp > 1:
        workload = split_by_tokens(workload, cp, False)
        if plan.context_algorithm == "rsa":
            workload = with_kept_scores(workload, cp)
    borders = [stage.blocks for stage in plan.stages]
    kinds = {(stage.layout, max(plan.samples(stage))) for stage in plan.stages}
    each = {
        (layout, micro): pipeline_parts(
            workload,
            schedule_of(plan),
            borders,
            Layout(layout.tp, layout.pp, layout.replicas, ep=layout.ep, shard=layout.shard),
            plan.sharding,
            micro,
            plan.recompute,
        )
        for layout, micro in kinds
    }
    return tuple(
        each[stage.layout, max(plan.samples(stage))][rank]
        for rank, stage in enumerate(plan.stages[: plan.pp])
    )


def pipeline_parts(
    workload: Workload,
    schedule: Schedule,
    borders: Sequence[BlockRange],
    layout: Layout,
    sharding: Sharding,
    micro: int,
    recompute: Recompute,
) -> tuple[MemoryParts, ...]:
    """The parts of each pipeline rank, the activations of all its stages together.

    Args:
        borders: half-open ranges of blocks, one per virtual stage.
        micro: samples per micro-batch.

    Raises:
        ConfigError: groups of the sharding that do not nest.
    """
    chosen = [workload.blocks[slice(*blocks)] for blocks in borders]
    held = [_kept(blocks, layout.tp, recompute) * micro for blocks in chosen]
    pending = [
        (_kept(blocks, layout.tp, _graph(recompute)) + _waiting(blocks, layout.tp)) * micro
        for blocks in chosen
    ]
    return tuple(
        _rank_parts(
            workload, borders[rank :: schedule.stages], layout, sharding, micro, recompute, kept
        )
        for rank, kept in enumerate(activation_peaks(schedule, held, pending))
    )


def split_by_tokens(workload: Workload, context: int, sequence_parallel: bool) -> Workload:
    """The model as a rank keeps it whose axes divide tokens.

    The context axis divides all activations; with sequence parallelism no tensor rank
    holds one whole.
    """
    if context == 1 and not sequence_parallel:
        return workload

    def part(block: Block) -> Block:
        whole = dict.fromkeys(block.activation_bytes, 0.0)
        if not sequence_parallel:
            whole = {mode: kept / context for mode, kept in block.whole_activation_bytes.items()}
        return replace(
            block,
            activation_bytes={m: kept / context for m, kept in block.activation_bytes.items()},
            whole_activation_bytes=whole,
            working_bytes=block.working_bytes / context,
            dispatched_bytes=block.dispatched_bytes / context,
            output_bytes=block.output_bytes / context,
        )

    return replace(workload, blocks=tuple(part(block) for block in workload.blocks))


def with_kept_scores(workload: Workload, cp: int) -> Workload:
    """The model as one of ``cp`` ranks of ring self-attention keeps it: the weights of its
    tokens over the whole sample, H (S/N) S elements a layer, where attention does not run again.

    Args:
        workload: its activations already divided by ``cp``.
    """
    if workload.attention == "unfused":
        return workload  # They are among the activations already.
    row = float(workload.heads * workload.sequence**2 * workload.compute_bytes / cp)
    return replace(
        workload,
        blocks=tuple(
            replace(
                block,
                activation_bytes={
                    **block.activation_bytes,
                    "none": block.activation_bytes["none"] + row,
                },
            )
            if block.kind == "transformer"
            else block
            for block in workload.blocks
        ),
    )


def stage_memory(
    workload: Workload,
    blocks: tuple[int, int],
    layout: Layout,
    sharding: Sharding,
    in_flight: float,
    micro: int,
    recompute: Recompute,
) -> int:
    """Peak bytes of one rank that holds the half-open range ``blocks``; see :func:`stage_parts`."""
    return stage_parts(workload, blocks, layout, sharding, in_flight, micro, recompute).total


def stage_parts(
    workload: Workload,
    blocks: tuple[int, int],
    layout: Layout,
    sharding: Sharding,
    in_flight: float,
    micro: int,
    recompute: Recompute,
) -> MemoryParts:
    """What one rank that holds the half-open range ``blocks`` needs at its peak.

    Args:
        in_flight: micro-batches held between forward and backward; a rank of several
            stages may hold some for a part of its blocks.
        micro: samples per micro-batch.

    Raises:
        ConfigError: groups of the sharding that do not nest.
    """
    kept = _kept(workload.blocks[slice(*blocks)], layout.tp, recompute) * micro * in_flight
    return _rank_parts(workload, [blocks], layout, sharding, micro, recompute, kept)


def _rank_parts(
    workload: Workload,
    ranges: Sequence[BlockRange],
    layout: Layout,
    sharding: Sharding,
    micro: int,
    recompute: Recompute,
    kept: float,
) -> MemoryParts:
    chosen = tuple(block for blocks in ranges for block in workload.blocks[slice(*blocks)])
    boundary = 0.0
    for start, stop in ranges:
        before = workload.blocks[start - 1].output_bytes if start > 0 else 0.0
        after = workload.blocks[stop - 1].output_bytes if stop < len(workload.blocks) else 0.0
        boundary += BOUNDARY_BUFFERS * (before + after) * micro
    return MemoryParts(
        states=_states(workload, chosen, layout, sharding),
        activations=kept,
        working=_working_set(chosen, layout.tp, recompute, micro)
        + (_dispatched(chosen) * micro if layout.ep > 1 else 0.0),
        boundary=boundary,
        exchange=_exchange(workload, chosen, layout, sharding),
        runtime=_runtime(workload, layout),
    )


def _dispatched(blocks: Sequence[Block]) -> float:
    """Tokens of one sample as they leave for experts on other ranks, and as others' arrive.

    Every expert takes as many as every other; beyond that its capacity would have to cut.
    """
    return EXPERT_BUFFERS * max((block.dispatched_bytes for block in blocks), default=0.0)


def _kept(blocks: Sequence[Block], tp: int, recompute: Recompute) -> float:
    """Activations of one sample between forward and backward."""
    return sum(_activations(block, tp, recompute) for block in blocks)


def _graph(recompute: Recompute) -> Recompute:
    """What is kept once the backward has begun: full recomputation has rebuilt everything."""
    return "none" if recompute == "full" else recompute


def _waiting(blocks: Sequence[Block], tp: int) -> float:
    """Gradients of one sample that wait for the weights' part of the backward.

    In a transformer block those at the outputs of six products and two norms, 11 sbh of
    the 17 sbh elements that Korthikanti et al. (2022, section 4.1) count outside the
    attention core; elsewhere the gradient of the output.
    """
    total = 0.0
    for block in blocks:
        if block.kind == "transformer":
            total += WAITING_SHARE * block.activation_bytes["selective"] / tp
        else:
            total += block.output_bytes / (tp if block.kind == "head" else 1)
    return total


def _runtime(workload: Workload, layout: Layout) -> float:
    """The process, and on an accelerator the buffers of its communicators."""
    return runtime_bytes(layout, accelerator=workload.compute_bytes <= HALF)


def runtime_bytes(layout: Layout, *, accelerator: bool) -> float:
    """A process without a model: on an accelerator, communicators hold buffers on the device."""
    if not accelerator:
        return RUNTIME_BYTES
    axes = sum(degree > 1 for degree in (layout.tp, layout.pp, layout.dp, layout.cp, layout.ep))
    return RUNTIME_BYTES + COMMUNICATOR_BYTES * (axes + (axes > 0))


def _exchange(
    workload: Workload, blocks: tuple[Block, ...], layout: Layout, sharding: Sharding
) -> float:
    """Buffers of the gradient exchange.

    Of sharded parameters the token table and the head stay whole through a step (they
    belong to the root of the model), with their gradients, and so do the blocks that
    compute and arrive.
    """
    if layout.replicas == 1:
        return 0.0
    p, g = workload.parameter_bytes, workload.gradient_bytes
    largest = max(_reduced(block, layout) for block in blocks) / layout.tp
    if sharding == "gradients":
        return largest * GRADIENT_BUCKETS * g
    if layout.shards(sharding).weights == 1:
        return largest * (g + p)
    root = sum(block.parameters for block in blocks if block.kind != "transformer") / layout.tp
    layers = (_reduced(block, layout) for block in blocks if block.kind == "transformer")
    layer = max(layers, default=0.0) / layout.tp
    return root * 2 * p + layer * (GATHERED_LAYERS * p + p + g)


def _reduced(block: Block, layout: Layout) -> float:
    """Parameters of a block that an expert rank shares with others, all tensor ranks together."""
    if layout.ep == 1:
        return block.parameters
    shared = block.expert_parameters / layout.ep if layout.replicas > layout.ep else 0.0
    return block.parameters - block.expert_parameters + shared


def _states(
    workload: Workload, blocks: tuple[Block, ...], layout: Layout, sharding: Sharding
) -> float:
    """Weights, gradients and optimiser states, each over the ranks that share it (ZeRO 0 to 3;
    w, g and all replicas at three levels)."""
    shards = layout.shards(sharding)
    sizes = [workload.parameter_bytes, workload.gradient_bytes, workload.optimizer_bytes]
    if sharding == "parameters" and workload.optimizer_bytes > 2 * workload.gradient_bytes:
        sizes[0] = 0  # The optimiser's master copy is the only one; a gather makes the narrow one.
    parameters = sum(block.parameters for block in blocks) / layout.tp
    if layout.ep == 1:
        return parameters * _per_parameter(sizes, shards, sharding)
    experts = sum(block.expert_parameters for block in blocks) / layout.tp
    dense = (parameters - experts) * _per_parameter(sizes, shards, sharding)
    alike = layout.of_experts.shards(sharding)
    return dense + experts / layout.ep * _per_parameter(sizes, alike, sharding)


def _per_parameter(sizes: Sequence[int], shards: Shards, sharding: Sharding) -> float:
    """Bytes of a rank per parameter that it shares with others."""
    states = 1 if sharding == "none" else shards.states
    divided = (shards.weights, shards.gradients, states)
    return sum(size / ways for size, ways in zip(sizes, divided, strict=True))


def _working_set(blocks: tuple[Block, ...], tp: int, recompute: Recompute, micro: int) -> float:
    """What one block needs beyond what it keeps: its activations again, gradients of logits."""
    most = 0.0
    for block in blocks:
        if recompute != "none":
            again = _activations(block, tp, "none") - _activations(block, tp, recompute)
            most = max(most, again)
        if block.kind == "head":
            most = max(most, (block.working_bytes or block.output_bytes) / tp)
    return most * micro


def _activations(block: Block, tp: int, recompute: Recompute) -> float:
    """What a tensor rank keeps of a block for one sample (Korthikanti et al. 2022, equation 2).

    Where a block does not say what each tensor rank holds whole: 10 of the 34 sbh of a
    layer (the inputs around norms and dropouts), and the input that full recomputation keeps.
    """
    if block.whole_activation_bytes:
        return block.activation_bytes_on_rank(recompute, tp)
    kept = block.activation_bytes[recompute]
    if block.kind == "head":
        return kept / tp
    if block.kind == "embedding" or recompute == "full":
        return kept
    whole = min(kept, WHOLE_SHARE * block.activation_bytes.get("selective", kept))
    return whole + (kept - whole) / tp
