"""From a measured reachability matrix to clusters and links. Pure; no network here.

Nodes form a cluster when a fast fabric joins them in *both* directions; nodes
without any such partner form clusters by Ethernet. A one-way path is reported
and not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from holmes.hardware.site import Fabric
from holmes.probe.facts import NodeFacts

Reach = Mapping[tuple[int, int, Fabric], float]
"""(from node, to node, fabric) -> measured Gbit/s; absent when nothing arrived."""

FAST = (Fabric.INFINIBAND, Fabric.ROCE)


@dataclass(frozen=True)
class FoundCluster:
    """Node indices that share a fabric; ``fabric`` is what joined them, None for one node."""

    name: str
    nodes: tuple[int, ...]
    fabric: Fabric | None


@dataclass(frozen=True)
class FoundLink:
    """Two clusters all of whose nodes reach each other; ``gbit_s`` is the slowest pair."""

    between: tuple[str, str]
    fabric: Fabric
    gbit_s: float


@dataclass(frozen=True)
class Found:
    """Clusters, links, and the sentences that say what was found.

    Only clusters that links join to the largest part are kept: no job can span the others.
    """

    clusters: tuple[FoundCluster, ...]
    links: tuple[FoundLink, ...]
    remarks: tuple[str, ...]


def both_ways(reach: Reach, a: int, b: int, fabric: Fabric) -> float | None:
    """Gbit/s of the slower direction, or None when one direction is closed."""
    there, back = reach.get((a, b, fabric)), reach.get((b, a, fabric))
    return None if there is None or back is None else min(there, back)


def joined(cluster: FoundCluster, reach: Reach, fabric: Fabric) -> bool:
    """Whether this fabric joins every pair of a cluster's nodes, both ways."""
    pairs = combinations(cluster.nodes, 2)
    return all(both_ways(reach, a, b, fabric) is not None for a, b in pairs)


def find_clusters(nodes: Sequence[NodeFacts], reach: Reach) -> Found:
    """Group nodes by measured reachability."""
    left = list(range(len(nodes)))
    clusters: list[FoundCluster] = []
    for fabric in (*FAST, Fabric.ETHERNET):
        for members in _cliques(left, reach, fabric):
            if len(members) > 1:
                clusters.append(_named(clusters, members, fabric))
                left = [node for node in left if node not in members]
    clusters += [FoundCluster(f"single{node}", (node,), None) for node in left]
    clusters.sort(key=lambda cluster: cluster.nodes)
    links = _links(clusters, reach)
    kept = _largest_part(clusters, links)
    remarks = _clusters_text(nodes, clusters, kept, reach) + _pairs_text(nodes, reach)
    links = tuple(link for link in links if {*link.between} <= {each.name for each in kept})
    return Found(kept, links, remarks)


def _largest_part(
    clusters: Sequence[FoundCluster], links: Sequence[FoundLink]
) -> tuple[FoundCluster, ...]:
    """The clusters that links join into the part with the most nodes, the first of equals."""
    parts: list[set[str]] = [{cluster.name} for cluster in clusters]
    for link in links:
        touched = [part for part in parts if part & {*link.between}]
        parts = [part for part in parts if part not in touched] + [set().union(*touched)]
    sizes = {cluster.name: len(cluster.nodes) for cluster in clusters}
    order = [cluster.name for cluster in clusters]
    best = max(
        parts, key=lambda part: (sum(sizes[name] for name in part), -min(map(order.index, part)))
    )
    return tuple(cluster for cluster in clusters if cluster.name in best)


def _cliques(nodes: Sequence[int], reach: Reach, fabric: Fabric) -> list[tuple[int, ...]]:
    """Greedy sets in which *every* pair reaches each other: one blocked pair splits a cluster,
    since a group over its members would not come up."""
    open_nodes = list(nodes)
    found: list[tuple[int, ...]] = []
    while open_nodes:
        members = [open_nodes[0]]
        for node in open_nodes[1:]:
            if all(both_ways(reach, node, other, fabric) is not None for other in members):
                members.append(node)
        open_nodes = [node for node in open_nodes if node not in members]
        found.append(tuple(members))
    return found


def _named(clusters: list[FoundCluster], members: tuple[int, ...], fabric: Fabric) -> FoundCluster:
    short = {Fabric.INFINIBAND: "ib", Fabric.ROCE: "roce", Fabric.ETHERNET: "ethernet"}[fabric]
    same = sum(cluster.fabric is fabric for cluster in clusters)
    return FoundCluster(short if not same else f"{short}{same + 1}", members, fabric)


def _links(clusters: Sequence[FoundCluster], reach: Reach) -> tuple[FoundLink, ...]:
    links: list[FoundLink] = []
    for i, a in enumerate(clusters):
        for b in clusters[i + 1 :]:
            for fabric in Fabric:
                if not joined(a, reach, fabric) or not joined(b, reach, fabric):
                    continue  # its cards are left out of that cluster
                rates = [both_ways(reach, x, y, fabric) for x in a.nodes for y in b.nodes]
                known = [rate for rate in rates if rate is not None]
                if known and len(known) == len(rates):
                    links.append(FoundLink((a.name, b.name), fabric, min(known)))
    return tuple(links)


def _clusters_text(
    nodes: Sequence[NodeFacts],
    clusters: Sequence[FoundCluster],
    kept: Sequence[FoundCluster],
    reach: Reach,
) -> tuple[str, ...]:
    """A sentence per cluster, and per network of it that is not used."""
    if len(nodes) == 1:
        return ()
    lines: list[str] = []
    for cluster in clusters:
        names = ", ".join(nodes[i].name for i in cluster.nodes)
        if cluster.fabric is None:
            lines.append(f"cluster {cluster.name}: {names}, alone on its networks")
        else:
            how = f"joined by {cluster.fabric.value}, every pair in both directions"
            lines.append(f"cluster {cluster.name}: {names} ({how})")
        for fabric in unused(nodes, cluster, reach):
            lines.append(
                f"{fabric.value} is left out of cluster {cluster.name}: it does not join all of it"
            )
        if cluster not in kept:
            lines.append(f"cluster {cluster.name} is left out: no network joins it to the rest")
    return tuple(lines)


def unused(nodes: Sequence[NodeFacts], cluster: FoundCluster, reach: Reach) -> tuple[Fabric, ...]:
    """Fabrics that nodes of the cluster have cards of, but that do not join all its pairs."""
    present = {nic.kind for index in cluster.nodes for nic in nodes[index].nics}
    return tuple(each for each in Fabric if each in present and not joined(cluster, reach, each))


def _pairs_text(nodes: Sequence[NodeFacts], reach: Reach) -> tuple[str, ...]:
    """A sentence per pair of nodes that both have a fabric which does not join them."""
    lines: list[str] = []
    has = {(i, nic.kind) for i, node in enumerate(nodes) for nic in node.nics}
    for a, b in combinations(range(len(nodes)), 2):
        for fabric in Fabric:
            if (a, fabric) not in has or (b, fabric) not in has:
                continue
            there, back = (a, b, fabric) in reach, (b, a, fabric) in reach
            if there and back:
                continue
            x, y = (b, a) if back else (a, b)
            names = nodes[x].name, nodes[y].name
            lines.append(
                f"{names[0]} reaches {names[1]} over {fabric.value}, but not back "
                "(firewall or route?): not used"
                if there or back
                else f"{names[0]} and {names[1]} do not reach each other over {fabric.value}, "
                "though both have it"
            )
    return tuple(lines)
