"""Seconds of what a level of sharding exchanges: for every micro-batch, and once a step.

:mod:`holmes.plan.sharding` says which groups exchange what; here every group of a stage that
does so at the same time is priced together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from holmes.cost.axes import gathers
from holmes.plan.layout import Layout, Quantize, Sharding
from holmes.plan.sharding import BITS, wire_width
from holmes.planner.ground import NO_EXCHANGE, Exchange, Ground
from holmes.planner.shard_sizes import shard_sizes
from holmes.schedule.instruction import Op
from holmes.schedule.sharding import Shards
from holmes.workload.workload import Workload


@dataclass(frozen=True)
class Level:
    """Exchanges of one stage, in bytes of the weights or gradients of whole blocks.

    Attributes:
        gather, reduce: of every micro-batch, once or twice (:meth:`floors`).
        summed: of a step's gradients, the last micro-batch's included.
        refreshed: of a step's new weights.
        experts: the same of the experts, where several ranks hold different ones.
    """

    gather: Exchange
    reduce: Exchange
    summed: Exchange
    refreshed: Exchange
    times: tuple[int, int] = (0, 0)
    """Gathers in a forward, and exchanges in a backward."""
    experts: Level | None = None

    def sums(self, elements: float, experts: float, width: float, operations: int) -> float:
        """Seconds of a step's gradients, of experts besides, ``width`` bytes each."""
        found = self.summed.seconds(elements * width, operations)
        if self.experts is None:
            return found
        return found + self.experts.summed.seconds(experts * width, operations)

    def refreshes(self, elements: float, experts: float, width: float, operations: int) -> float:
        """Seconds of a step's new weights."""
        found = self.refreshed.seconds(elements * width, operations)
        if self.experts is None:
            return found
        return found + self.experts.refreshed.seconds(experts * width, operations)

    def floors(
        self, elements: float, workload: Workload, experts: float = 0.0
    ) -> tuple[float, float]:
        """(forward, backward) of a micro-batch are no shorter than its exchanges, seconds."""
        if self.experts is not None and experts:
            more = self.experts.floors(experts, workload)
            less = replace(self, experts=None).floors(elements, workload)
            return less[0] + more[0], less[1] + more[1]
        forwards, backwards = self.times
        if not backwards:
            return 0.0, 0.0
        gather = self.gather.seconds(elements * workload.parameter_bytes, 1)
        reduce = self.reduce.seconds(elements * workload.gradient_bytes, 1)
        return forwards * gather, (backwards - 1) * gather + reduce


def levels(
    ground: Ground,
    sharding: Sharding,
    wish: tuple[int, ...] | None = None,
    quantize: Quantize = "none",
) -> tuple[Level, ...]:
    """The exchanges of each stage, those of experts apart where expert ranks divide them.

    Args:
        wish: sizes of the groups of a level that has any; else the site's links decide.

    Raises:
        ConfigError: a wish that does not divide the replicas.
    """
    found = _levels(ground, sharding, wish, quantize)
    if ground.layout.ep == 1:
        return found
    experts = _of_experts(ground, sharding, quantize)
    return tuple(replace(one, experts=other) for one, other in zip(found, experts, strict=True))


def _of_experts(ground: Ground, sharding: Sharding, quantize: Quantize) -> tuple[Level, ...]:
    """Exchanges among the replicas that hold the same experts, by a level without groups of
    its own."""
    ep, none = ground.layout.ep, (NO_EXCHANGE,) * ground.layout.pp
    groups = tuple(tuple(range(first, ground.replicas, ep)) for first in range(ep))
    alike = ground.shared(Op.REDUCE_SCATTER, groups)
    gather, reduce = _narrowed(ground, quantize, alike, alike)
    if sharding not in ("gradients", "parameters"):
        gather = reduce = none
        summed = refreshed = alike
    elif sharding == "gradients":
        gather, summed, refreshed = none, reduce, alike
    else:
        summed, refreshed = reduce, none
    each = zip(gather, reduce, summed, refreshed, strict=True)
    return tuple(Level(*one, gathers(sharding)) for one in each)


def _narrowed(
    ground: Ground, quantize: Quantize, gather: tuple[Exchange, ...], reduce: tuple[Exchange, ...]
) -> tuple[tuple[Exchange, ...], tuple[Exchange, ...]]:
    """Gathers and reductions of every micro-batch, in as few bits as they travel in."""
    workload = ground.cost.workload
    weight, gradient = workload.parameter_bytes, workload.gradient_bytes
    bits = BITS[quantize]
    return (
        _scaled(gather, wire_width(bits[0], weight) / weight),
        _scaled(reduce, wire_width(bits[1], gradient) / gradient),
    )


def _levels(
    ground: Ground, sharding: Sharding, wish: tuple[int, ...] | None, quantize: Quantize
) -> tuple[Level, ...]:
    count, everywhere = ground.replicas, ground.exchanges
    if count == 1 or not any(gathers(sharding)):
        known = {
            one: Level(NO_EXCHANGE, NO_EXCHANGE, one, one) for one in dict.fromkeys(everywhere)
        }
        return tuple(known[one] for one in everywhere)
    shards = Layout(dp=count, shard=shard_sizes(ground, sharding, wish)).shards(sharding)
    near = _near(ground, shards.weights), _near(ground, shards.gradients)
    gather, reduce = _narrowed(ground, quantize, *near)
    across, refreshed = _once(ground, shards)
    return tuple(
        Level(*one, gathers(sharding))
        for one in zip(gather, reduce, _added(reduce, across), refreshed, strict=True)
    )


def _once(ground: Ground, shards: Shards) -> tuple[tuple[Exchange, ...], tuple[Exchange, ...]]:
    """What a step sums across the groups that share gradients, and how it spreads new weights."""
    count, w, g = shards.members, shards.weights, shards.gradients
    none = (NO_EXCHANGE,) * ground.layout.pp
    if w == 1:
        return none, ground.exchanges
    across = refreshed = none
    if shards.far > 1:
        groups = tuple(tuple(range(first, count, g)) for first in range(g))
        divided = shards.states > g
        op = Op.REDUCE_SCATTER if divided else Op.ALL_REDUCE
        across = _scaled(ground.shared(op, groups), 1 / g)
        if divided:
            refreshed = across
    if shards.inner > 1:
        groups = tuple(
            tuple(range(first + p, first + g, w)) for first in range(0, count, g) for p in range(w)
        )
        side = _scaled(ground.shared(Op.REDUCE_SCATTER, groups), 1 / w)
        refreshed = _added(refreshed, side)
    return across, refreshed


def _near(ground: Ground, size: int) -> tuple[Exchange, ...]:
    """Groups of so many neighbouring replicas."""
    if size == ground.replicas:
        return ground.exchanges
    groups = tuple(tuple(range(first, first + size)) for first in range(0, ground.replicas, size))
    return ground.shared(Op.REDUCE_SCATTER, groups)


def _scaled(each: tuple[Exchange, ...], factor: float) -> tuple[Exchange, ...]:
    return tuple(replace(one, per_byte=one.per_byte * factor) for one in each)


def _added(a: tuple[Exchange, ...], b: tuple[Exchange, ...]) -> tuple[Exchange, ...]:
    """One exchange after the other."""
    return tuple(
        Exchange(one.latency + other.latency, one.per_byte + other.per_byte)
        for one, other in zip(a, b, strict=True)
    )
