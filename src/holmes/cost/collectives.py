"""Collectives as phases of hops: who sends how many bytes to whom, and what waits in a row.

Every algorithm is legal for some groups only; :func:`ways` lists the legal ones and
:class:`holmes.cost.network.Network` takes the cheapest, as NCCL does. The phases of one way
run one after the other, the hops of a phase at the same time.

ring: enters and leaves each node once. tree: a chain inside each node, two complementary
binary trees between them with half of the payload each (Sanders, Speck and Traff 2009).
hierarchical: reduce-scatter inside, all-reduce between members of equal place, gather inside.
in-switch: every member sends its payload to the switch, which adds, and receives the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from holmes.schedule.instruction import Op

Algorithm = Literal["point-to-point", "direct", "ring", "tree", "hierarchical", "in-switch"]

SMALL_BYTES = 64 * 1024
"""Collectives up to this size use NCCL's LL protocol, whose steps are short."""
SMALL_STEP = 2.7 / 9.6
"""A step of the LL protocol over one of the Simple protocol (NVIDIA/nccl src/graph/tuning.cc)."""
SWITCH_SHARE = 0.6
"""Of the link's rate while the switch adds: 480 and 838 GB/s of bus bandwidth on 8 H200 and 8
B200 (stas00/ml-engineering, network/README.md) are 274 of 428 and 479 of 855 GB/s sent."""

IN_PHASES_SHARE = 0.87
"""Of the cards' rate where nodes first sum inside: 57 GB/s of bus bandwidth between
2 nodes with 4 x 100 Gb/s (NVIDIA/nccl#527), 86 to 91 with 4 x 200 (NVIDIA/nccl#1048)."""


@dataclass(frozen=True)
class Hop:
    """``bytes`` from one rank to another, over as many ports as ``rails`` members drive.

    ``waits`` counts how often the latency of this hop passes in a row.
    """

    source: int
    target: int
    bytes: float
    waits: float
    rails: int = 1


@dataclass(frozen=True)
class Phase:
    """Hops at the same time; ``local`` bytes pass through each member's memory besides.

    ``share`` is the part of their rate at which links run.
    """

    hops: tuple[Hop, ...]
    local: float = 0.0
    share: float = 1.0


@dataclass(frozen=True)
class Way:
    """One legal algorithm of a collective."""

    algorithm: Algorithm
    phases: tuple[Phase, ...]


def ways(
    op: Op, nodes: Sequence[Sequence[int]], bytes_: float, *, switch_adds: bool = False
) -> tuple[Way, ...]:
    """The legal ways of a collective with a payload of ``bytes_`` at full size.

    Args:
        nodes: the ranks on each node, in the order of the ring.
        switch_adds: the switch inside a node sums.
    """
    found = [Way("ring", (ring(op, nodes, bytes_),))]
    if op is Op.ALL_REDUCE and sum(map(len, nodes)) > 1:
        if len(nodes) > 1:
            found.append(Way("tree", _tree(nodes, bytes_)))
            if len({len(ranks) for ranks in nodes}) == 1 and len(nodes[0]) > 1:
                found.append(Way("hierarchical", _hierarchical(nodes, bytes_)))
        elif switch_adds:
            found.append(Way("in-switch", (in_switch(nodes[0], bytes_),)))
    return tuple(found)


def ring(op: Op, nodes: Sequence[Sequence[int]], bytes_: float) -> Phase:
    """A ring over all ranks, with as many rails between nodes as members there."""
    order = [rank for ranks in nodes for rank in ranks]
    members = {rank: len(ranks) for ranks in nodes for rank in ranks}
    rounds = 2 if op is Op.ALL_REDUCE else 1
    turns = rounds * (len(order) - 1) / len(order)
    pairs = zip(order, order[1:] + order[:1], strict=True)
    hops = tuple(Hop(a, b, turns * bytes_, turns, members[a]) for a, b in pairs)
    return Phase(hops, rounds * bytes_ if len(nodes) == 1 else 0.0)


def direct(nodes: Sequence[Sequence[int]], bytes_: float) -> Phase:
    """Every rank sends its 1/n of the payload to every other: also an all-to-all."""
    ranks = [rank for node in nodes for rank in node]
    members = {rank: len(node) for node in nodes for rank in node}
    chunk = bytes_ / len(ranks)
    pairs = [(a, b) for a in ranks for b in ranks if a != b]
    return Phase(tuple(Hop(a, b, chunk, 0.0, members[a]) for a, b in pairs))


def parents(nodes: int) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """Parents of each node in two binary trees; inner nodes of one are leaves of the other
    (but for one or two of them)."""
    one = tuple(_parent(node, nodes) for node in range(nodes))
    if nodes % 2 == 0:  # mirrored
        other = tuple(None if up is None else nodes - 1 - up for up in reversed(one))
    else:  # moved by one
        moved = [one[(node - 1) % nodes] for node in range(nodes)]
        other = tuple(None if up is None else (up + 1) % nodes for up in moved)
    return one, other


def _parent(node: int, nodes: int) -> int | None:
    """Odd nodes are leaves; the lowest set bit is a node's height."""
    if node == 0:
        return None
    bit = node & -node
    above = (node ^ bit) | (bit << 1)
    return above if above < nodes else node ^ bit


def _tree(nodes: Sequence[Sequence[int]], bytes_: float) -> tuple[Phase, ...]:
    leaders = [ranks[0] for ranks in nodes]
    depth = math.ceil(math.log2(len(nodes)))
    edges = [
        (leaders[node], leaders[up], len(nodes[node]))
        for tree in parents(len(nodes))
        for node, up in enumerate(tree)
        if up is not None
    ]
    # The latency of the way up and down is that of the longest branch, on its first edge.
    waits = [2.0 * depth] + [0.0] * (len(edges) - 1)
    between = tuple(
        hop
        for (a, b, rails), wait in zip(edges, waits, strict=True)
        for hop in (Hop(a, b, bytes_ / 2, wait, rails), Hop(b, a, bytes_ / 2, 0.0, rails))
    )
    longest = max(nodes, key=len)
    chains = []
    for ranks in nodes:
        for a, b in pairwise(ranks):
            wait = 1.0 if ranks is longest else 0.0
            chains += [Hop(b, a, bytes_, wait), Hop(a, b, bytes_, wait)]
    up_and_down = Phase(between, share=IN_PHASES_SHARE)
    return (Phase(tuple(chains)), up_and_down) if chains else (up_and_down,)


def _hierarchical(nodes: Sequence[Sequence[int]], bytes_: float) -> tuple[Phase, ...]:
    inside = len(nodes[0])
    turns = (inside - 1) / inside
    scatter = Phase(
        tuple(
            Hop(a, b, turns * bytes_, turns if ranks is nodes[0] else 0.0)
            for ranks in nodes
            for a, b in zip(ranks, [*ranks[1:], ranks[0]], strict=True)
        ),
        bytes_,
    )
    around = 2 * (len(nodes) - 1) / len(nodes)
    share = bytes_ / inside
    between = Phase(
        tuple(
            Hop(a, b, around * share, around if place == 0 else 0.0)
            for place in range(inside)
            for a, b in zip(
                [ranks[place] for ranks in nodes],
                [ranks[place] for ranks in [*nodes[1:], nodes[0]]],
                strict=True,
            )
        ),
        share=IN_PHASES_SHARE,
    )
    return scatter, between, scatter


def in_switch(ranks: Sequence[int], bytes_: float) -> Phase:
    """Each member's payload to the switch, and the sum back."""
    waits = [2.0] + [0.0] * (len(ranks) - 1)
    hops = tuple(Hop(r, r, bytes_, wait) for r, wait in zip(ranks, waits, strict=True))
    return Phase(hops, 0.0, SWITCH_SHARE)
