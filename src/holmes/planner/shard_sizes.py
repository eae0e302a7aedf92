"""Sizes of the groups of replicas that share weights and gradients, from the site's links.

Neighbouring replicas that sit in one node talk over the links between its devices, those of
one cluster over its fast cards, all of them over what is left. A level of sharding that has
inner groups puts what is exchanged most often where the links are fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from holmes.hardware.topology import DeviceSlot
from holmes.plan.layout import Layout, Sharding
from holmes.planner.ground import Ground

PAIR = 2


def shard_sizes(
    ground: Ground, sharding: Sharding, wish: tuple[int, ...] | None
) -> tuple[int, ...]:
    """The sizes for a level, smallest first; empty where it has no groups.

    hybrid: the largest group inside a node, else inside a cluster. three-level: node and
    cluster; where there is one such border only, pairs of devices and what it encloses.

    Raises:
        ConfigError: a wish that does not divide the replicas.
    """
    if sharding not in ("hybrid", "three-level"):
        return ()
    count = ground.replicas
    if wish is not None:
        Layout(dp=count, shard=wish).shards(sharding)
        return wish
    node = _inside(ground, lambda slot: slot.node.index)
    cluster = _inside(ground, lambda slot: slot.node.cluster)
    proper = sorted({size for size in (node, cluster) if 1 < size < count})
    if sharding == "hybrid":
        return (proper[0] if proper else count,)
    if len(proper) == 2:
        return proper[0], proper[1]
    middle = proper[0] if proper else count
    return (PAIR if middle % PAIR == 0 else middle), middle


def _inside(ground: Ground, place: Callable[[DeviceSlot], Hashable]) -> int:
    """The most neighbouring replicas, a divisor of all, that are in one place in every stage."""
    tp, count = ground.layout.tp, ground.replicas
    for size in range(count, 1, -1):
        if count % size == 0 and all(
            len({place(slot) for slot in slots[first : first + size * tp]}) == 1
            for slots in ground.slots
            for first in range(0, count * tp, size * tp)
        ):
            return size
    return 1
