"""Algorithms of collectives against slow twins that move every chunk step by step."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from holmes.cost.calibration import DEFAULT
from holmes.cost.collectives import Phase, direct, parents, ring, ways
from holmes.cost.execution import inner_link
from holmes.cost.network import Network
from holmes.hardware.catalogue import device_kind
from holmes.hardware.site import Cluster, Device, Fabric, Nic, Site
from holmes.hardware.topology import Topology
from holmes.schedule.instruction import Op

ITEMS = 840
"""Elements of the payload; every count of ranks below divides it."""


def sent(phases: tuple[Phase, ...]) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for phase in phases:
        for hop in phase.hops:
            found[hop.source, hop.target] += round(hop.bytes)
    return found


def values(ranks: int) -> np.ndarray:
    return np.arange(ranks * ITEMS, dtype=float).reshape(ranks, ITEMS)


class Wires:
    """Counts elements per ordered pair and the steps in a row."""

    def __init__(self) -> None:
        self.moved: Counter[tuple[int, int]] = Counter()
        self.steps = 0

    def send(self, a: int, b: int, data: np.ndarray) -> np.ndarray:
        self.moved[a, b] += data.size
        return data.copy()


def stepwise_ring(order: list[int], data: np.ndarray, op: Op, wires: Wires) -> None:
    """Patarasuk and Yuan's ring: chunks travel one rank a step, summed, then copied."""
    n = len(order)
    chunks = np.split(np.arange(ITEMS), n)
    if op is not Op.ALL_GATHER:
        for step in range(n - 1):
            parcels = [(i, (i - step) % n) for i in range(n)]
            got = [
                (i, c, wires.send(order[i], order[(i + 1) % n], data[order[i], chunks[c]]))
                for i, c in parcels
            ]
            for i, c, parcel in got:
                data[order[(i + 1) % n], chunks[c]] += parcel
            wires.steps += 1
    if op is not Op.REDUCE_SCATTER:
        for step in range(n - 1):
            parcels = [(i, (i + 1 - step) % n) for i in range(n)]
            got = [
                (i, c, wires.send(order[i], order[(i + 1) % n], data[order[i], chunks[c]]))
                for i, c in parcels
            ]
            for i, c, parcel in got:
                data[order[(i + 1) % n], chunks[c]] = parcel
            wires.steps += 1


@pytest.mark.parametrize(
    "nodes", [[[0, 1]], [[0, 1, 2]], [[0, 1], [2, 3]], [[0], [1], [2], [3, 4]]]
)
@pytest.mark.parametrize("op", [Op.ALL_REDUCE, Op.REDUCE_SCATTER, Op.ALL_GATHER])
def test_a_ring_sends_what_its_stepwise_twin_sends(nodes: list[list[int]], op: Op) -> None:
    order = [rank for node in nodes for rank in node]
    data, wires = values(len(order)), Wires()
    total = data.sum(axis=0)
    stepwise_ring(order, data, op, wires)
    if op is Op.ALL_REDUCE:
        assert (data == total).all()
    phase = ring(op, nodes, ITEMS)
    assert sent((phase,)) == wires.moved
    # Each step waits for its slowest hop; with equal hops the waits of all add up to the steps.
    assert sum(hop.waits for hop in phase.hops) == pytest.approx(wires.steps)
    assert {hop.rails for hop in phase.hops if hop.source == 0} == {len(nodes[0])}


def stepwise_tree(nodes: list[list[int]], data: np.ndarray, wires: Wires) -> None:
    """Chains inside nodes reduce to the leader; each tree sums and spreads its half."""
    for ranks in nodes:
        for a, b in reversed(list(pairwise(ranks))):
            data[a] += wires.send(b, a, data[b])
    for half, tree in zip(np.split(np.arange(ITEMS), 2), parents(len(nodes)), strict=True):
        leaders = [ranks[0] for ranks in nodes]

        def depth(node: int, tree: tuple[int | None, ...] = tree) -> int:
            up = tree[node]
            return 0 if up is None else 1 + depth(up)

        order = sorted(range(len(nodes)), key=depth)
        for node in reversed(order):
            up = tree[node]
            if up is not None:
                data[leaders[up], half] += wires.send(
                    leaders[node], leaders[up], data[leaders[node], half]
                )
        for node in order:
            up = tree[node]
            if up is not None:
                data[leaders[node], half] = wires.send(
                    leaders[up], leaders[node], data[leaders[up], half]
                )
    for ranks in nodes:
        for a, b in pairwise(ranks):
            data[b] = wires.send(a, b, data[a])


@pytest.mark.parametrize(
    "nodes", [[[0], [1]], [[0, 1], [2, 3], [4, 5]], [[n] for n in range(7)], [[0, 1, 2], [3]]]
)
def test_two_trees_send_what_their_stepwise_twin_sends(nodes: list[list[int]]) -> None:
    data, wires = values(sum(map(len, nodes))), Wires()
    total = data.sum(axis=0)
    stepwise_tree(nodes, data, wires)
    assert (data == total).all()
    (tree,) = (w for w in ways(Op.ALL_REDUCE, nodes, ITEMS) if w.algorithm == "tree")
    assert sent(tree.phases) == wires.moved


@pytest.mark.parametrize("nodes", range(2, 40))
def test_trees_are_shallow_and_share_the_inner_work(nodes: int) -> None:
    one, other = parents(nodes)
    for tree in (one, other):
        assert tree.count(None) == 1
        for node in range(nodes):
            up, length = tree[node], 0
            while up is not None:
                up, length = tree[up], length + 1
            assert length <= np.ceil(np.log2(nodes))
        assert max(Counter(up for up in tree if up is not None).values()) <= 2
    inner = [{up for up in tree if up is not None} for tree in (one, other)]
    assert len(inner[0] & inner[1]) <= 2


def test_hierarchical_is_rings_inside_around_and_inside() -> None:
    nodes = [[0, 1, 2], [3, 4, 5]]
    data, wires = values(6), Wires()
    total = data.sum(axis=0)
    chunks = np.split(np.arange(ITEMS), 3)
    for ranks in nodes:
        stepwise_ring(ranks, data, Op.REDUCE_SCATTER, wires)
    for place in range(3):
        mine = chunks[(place + 1) % 3]
        column = [ranks[place] for ranks in nodes]
        for a, b in (column, column[::-1]):  # two halves, one each way, there and back
            wires.moved[a, b] += mine.size
        data[np.ix_(column, mine)] = data[np.ix_(column, mine)].sum(axis=0)
    for ranks in nodes:
        stepwise_ring(ranks, data, Op.ALL_GATHER, wires)
    assert (data == total).all()
    (found,) = (w for w in ways(Op.ALL_REDUCE, nodes, ITEMS) if w.algorithm == "hierarchical")
    assert sent(found.phases) == wires.moved


def test_all_to_all_sends_each_pair_its_share() -> None:
    assert sent((direct([[0, 1], [2]], 9.0),)) == {
        (a, b): 3 for a in range(3) for b in range(3) if a != b
    }


def test_legal_ways() -> None:
    def names(op: Op, nodes: list[list[int]], adds: bool = False) -> list[str]:
        return [way.algorithm for way in ways(op, nodes, 1.0, switch_adds=adds)]

    assert names(Op.ALL_REDUCE, [[0, 1]]) == ["ring"]
    assert names(Op.ALL_REDUCE, [[0, 1]], True) == ["ring", "in-switch"]
    assert names(Op.ALL_GATHER, [[0, 1]], True) == ["ring"]
    assert names(Op.ALL_REDUCE, [[0, 1], [2, 3]], True) == ["ring", "tree", "hierarchical"]
    assert names(Op.ALL_REDUCE, [[0, 1], [2]]) == ["ring", "tree"]


def cluster(kind: str, members: int, nodes: int = 1) -> Network:
    nics = (Nic(kind=Fabric.INFINIBAND, gbit_s=200, count=4),)
    made = Cluster(name="c", nodes=nodes, device=Device(kind=kind, count=members), nics=nics)
    ranks = tuple(range(members * nodes))
    return Network(Topology(Site(name="one", clusters=(made,))), ranks, DEFAULT)


@pytest.mark.parametrize("kind", ["a100-80g-sxm", "h100-80g-sxm"])
@pytest.mark.parametrize("members", [2, 4, 8])
@pytest.mark.parametrize("bytes_", [4096.0, 2e6, 1e9])
@pytest.mark.parametrize("op", [Op.ALL_REDUCE, Op.ALL_GATHER])
def test_tensor_groups_are_priced_like_any_group_of_a_node(
    kind: str, members: int, bytes_: float, op: Op
) -> None:
    link = inner_link(device_kind(kind), DEFAULT.link("intra-node"))
    found = cluster(kind, members).collective(op, range(members), bytes_, None)
    assert link.seconds(op.value, bytes_, members) == pytest.approx(found.seconds)


def test_flows_in_a_row_keep_their_bytes_and_end_together() -> None:
    found = cluster("a100-80g-sxm", 4, 2).collective(
        Op.ALL_REDUCE, range(8), 1e9, Fabric.INFINIBAND
    )
    assert found.algorithm in ("tree", "hierarchical")
    ends = [flow.bytes / flow.cap for flow in found.flows]
    assert max(ends) == pytest.approx(found.seconds - found.latency)
    ways_ = {way.algorithm: way for way in ways(Op.ALL_REDUCE, [[0, 1, 2, 3], [4, 5, 6, 7]], 1e9)}
    hops = [hop for phase in ways_[found.algorithm].phases for hop in phase.hops]
    assert sum(flow.bytes for flow in found.flows) == pytest.approx(sum(h.bytes for h in hops))
