"""What a level of sharding exchanges, in which groups, and how wide an element is on the wire.

Levels: ``none``, ``optimizer``, ``gradients``, ``parameters`` (ZeRO 0 to 3, Rajbhandari et al.
2020), ``hybrid`` (parameters inside a group, replicated across groups) and ``three-level``
(weights in an inner group, gradients in a middle one, optimiser states over all; "Scaling LLM
Training on Frontier with Low-Bandwidth Partitioning").
"""

from __future__ import annotations

from dataclasses import replace

from holmes.plan.layout import Layout, Quantize, Sharding
from holmes.plan.plan import Plan
from holmes.schedule.instruction import Exchange, Move, Op
from holmes.schedule.sharding import Shards

QUANTIZED_BLOCK = 256
"""Elements that share a scale, an fp32 number that travels with them."""
SCALE_BYTES = 4
BITS: dict[Quantize, tuple[int | None, int | None]] = {
    "none": (None, None),
    "int8": (8, None),
    "int4": (8, 4),
}
"""Of an element of gathered weights, and of reduced gradients; None: as it is."""


def error_bound(bits: int) -> float:
    """The largest error of an element over the largest of its block, half a step of
    2^(bits-1) - 1."""
    return 0.5 / ((1 << (bits - 1)) - 1)


def wire_width(bits: int | None, plain: int) -> float:
    """Bytes per element on the wire; ``plain`` where it is not quantised."""
    return plain if bits is None else bits / 8 + SCALE_BYTES / QUANTIZED_BLOCK


def exchanges_of(plan: Plan, layout: Layout, base: str, index: int) -> Exchange:
    """:func:`exchange_of`, and what it exchanges of its experts with the replicas that hold
    the same ones."""
    found = exchange_of(plan, layout, base, index)
    if layout.ep == 1:
        return found
    count, (among, which) = layout.replicas // layout.ep, divmod(index, layout.ep)
    if count == 1:
        return replace(found, experts=Exchange(each=found.each))
    experts = exchange_of(plan, layout.of_experts, expert_base(base, which), among)
    return replace(found, experts=experts)


def expert_base(base: str, which: int) -> str:
    """Name of the group of replicas that hold the ``which``-th part of the experts."""
    return f"{base}.e{which}"


def exchange_of(plan: Plan, layout: Layout, base: str, index: int) -> Exchange:
    """What one of the replicas of a stage exchanges.

    Args:
        layout: of the stage.
        base: name of the group of all of them.
        index: its place there.
    """
    shards = layout.shards(plan.sharding)
    weight_bits, gradient_bits = BITS[plan.quantize]
    weight, gradient = plan.workload.parameter_bytes, plan.workload.gradient_bytes
    w, g = shards.weights, shards.gradients
    gather = reduce = across = None
    if w > 1:
        width = wire_width(weight_bits, weight)
        gather = Move(Op.ALL_GATHER, _near(base, shards, w, index), 1, width)
    if g > 1:
        width = wire_width(gradient_bits, gradient)
        reduce = Move(Op.REDUCE_SCATTER, _near(base, shards, g, index), 1, width)
        if shards.far > 1:
            op = Op.REDUCE_SCATTER if shards.states > g else Op.ALL_REDUCE
            across = Move(op, _far(base, shards, index), g, gradient)
    else:
        reduce = Move(Op.REDUCE_SCATTER, base, 1, gradient)
    refresh = []
    if shards.states > g and shards.far > 1:
        refresh.append(Move(Op.ALL_GATHER, _far(base, shards, index), g, weight))
    if shards.inner > 1:
        refresh.append(Move(Op.ALL_GATHER, _side(base, shards, index), w, weight))
    return Exchange(gather, reduce, g > 1, across, tuple(refresh))


def shard_groups(layout: Layout, sharding: Sharding, base: str) -> dict[str, tuple[int, ...]]:
    """Members, as places among the replicas, of every group that a level exchanges in.

    Args:
        base: name of the group of all replicas.
    """
    shards = layout.shards(sharding)
    found: dict[str, tuple[int, ...]] = {}
    if shards.gradients == 1:
        found[base] = tuple(range(shards.members))
    for i in range(shards.members):
        if shards.weights > 1:
            found[_near(base, shards, shards.weights, i)] = shards.inner_group(i)
        if shards.gradients > 1:
            found[_near(base, shards, shards.gradients, i)] = shards.middle_group(i)
            found[_far(base, shards, i)] = shards.far_group(i)
        if shards.inner > 1:
            found[_side(base, shards, i)] = shards.side_group(i)
    return {name: members for name, members in found.items() if len(members) > 1}


def _near(base: str, shards: Shards, size: int, index: int) -> str:
    """The group of ``size`` neighbours; of all of them, the whole group."""
    return base if size == shards.members else f"{base}.near{size}.{index - index % size}"


def _far(base: str, shards: Shards, index: int) -> str:
    """One member of each middle group."""
    members = shards.far_group(index)
    return base if len(members) == shards.members else f"{base}.far.{members[0]}"


def _side(base: str, shards: Shards, index: int) -> str:
    """One member of each inner group of a middle group."""
    members = shards.side_group(index)
    if len(members) == shards.gradients:
        return _near(base, shards, shards.gradients, index)
    return f"{base}.side.{members[0]}"
