"""Bytes of memory per rank: states, activations in flight, buffers, margin."""

from __future__ import annotations

from holmes.errors import ConfigError
from holmes.plan.layout import Layout, Recompute, Sharding
from holmes.plan.plan import Plan
from holmes.plan.program import schedule_of
from holmes.workload.workload import Block, Workload

MARGIN = 0.06
"""Fragmentation and small buffers, on top of what is counted."""
RUNTIME_BYTES = 600_000_000
"""A process without a model: libraries, device context, communicators (assumed; a CPU rank
with torch alone measured 300-590 MiB)."""
BOUNDARY_BUFFERS = 2
"""Boundary activations and gradients received ahead, per direction."""
WHOLE_SHARE = 10 / 34
SHARDED_STATES: dict[str, tuple[bool, bool, bool]] = {
    "none": (False, False, False),
    "optimizer": (False, False, True),
    "gradients": (False, True, True),
    "parameters": (True, True, True),
}
"""Which of parameters, gradients and optimiser states are divided by dp (ZeRO 0 to 3)."""


def memory_bytes(plan: Plan) -> dict[int, int]:
    """Peak bytes of each logical rank."""
    in_flight = schedule_of(plan).in_flight
    bytes_: dict[int, int] = {}
    for stage in plan.stages:
        each = stage_memory(
            plan.workload,
            stage.blocks,
            stage.layout,
            plan.sharding,
            in_flight[stage.stage % plan.layout.pp],
            plan.batch.micro,
            plan.recompute,
        )
        for rank in stage.ranks:
            bytes_[rank] = bytes_.get(rank, 0) + each
    return bytes_


def stage_memory(
    workload: Workload,
    blocks: tuple[int, int],
    layout: Layout,
    sharding: Sharding,
    in_flight: int,
    micro: int,
    recompute: Recompute,
) -> int:
    """Peak bytes of one rank that holds the half-open range ``blocks``.

    Args:
        in_flight: micro-batches held between forward and backward.
        micro: samples per micro-batch.

    Raises:
        ConfigError: no memory model for this sharding.
    """
    chosen = workload.blocks[blocks[0] : blocks[1]]
    states = _states(workload, chosen, layout, sharding)
    kept = sum(_activations(block, layout.tp, recompute) for block in chosen) * micro * in_flight
    working = _working_set(chosen, layout.tp, recompute, micro)
    before = workload.blocks[blocks[0] - 1].output_bytes if blocks[0] > 0 else 0.0
    after = chosen[-1].output_bytes if blocks[1] < len(workload.blocks) else 0.0
    boundary = BOUNDARY_BUFFERS * (before + after) * micro
    exchange = 0.0
    if layout.dp > 1:
        largest = max(block.parameters for block in chosen) / layout.tp
        exchange = largest * (workload.gradient_bytes + workload.parameter_bytes)
    counted = states + kept + working + boundary + exchange
    return int(counted * (1 + MARGIN)) + RUNTIME_BYTES


def _states(
    workload: Workload, blocks: tuple[Block, ...], layout: Layout, sharding: Sharding
) -> float:
    try:
        split = SHARDED_STATES[sharding]
    except KeyError:
        raise ConfigError(
            f"no memory model for sharding {sharding!r}",
            where="parallel.sharding",
            why="known: " + ", ".join(SHARDED_STATES),
        ) from None
    sizes = (workload.parameter_bytes, workload.gradient_bytes, workload.optimizer_bytes)
    parameters = sum(block.parameters for block in blocks) / layout.tp
    per_element = sum(
        size / (layout.dp if divided else 1) for size, divided in zip(sizes, split, strict=True)
    )
    gathered = 0.0
    if sharding == "parameters":
        gathered = max(block.parameters for block in blocks) / layout.tp * sizes[0]
    return parameters * per_element + gathered


def _working_set(blocks: tuple[Block, ...], tp: int, recompute: Recompute, micro: int) -> float:
    """What one block needs beyond what it keeps: its activations again, gradients of logits."""
    most = 0.0
    for block in blocks:
        if recompute != "none":
            again = _activations(block, tp, "none") - _activations(block, tp, recompute)
            most = max(most, again)
        if block.kind == "head":
            most = max(most, block.output_bytes / tp)
    return most * micro


def _activations(block: Block, tp: int, recompute: Recompute) -> float:
    """What a tensor rank keeps of a block for one sample (Korthikanti et al. 2022, equation 2).

    Without sequence parallelism, 10 of the 34 sbh of a layer (the inputs around norms and
    dropouts) are held whole by every tensor rank; attention scores and the rest divide. The
    one input that full recomputation keeps is whole.
    """
    kept = block.activation_bytes[recompute]
    if block.kind == "head":
        return kept / tp
    if block.kind == "embedding" or recompute == "full":
        return kept
    whole = min(kept, WHOLE_SHARE * block.activation_bytes.get("selective", kept))
    return whole + (kept - whole) / tp
