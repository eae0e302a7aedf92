"""From a measured reachability matrix to clusters and links. Pure; no network here.

Nodes form a cluster when a fast fabric joins them in *both* directions; nodes
without any such partner form clusters by Ethernet. A one-way path is reported
and not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    """Clusters, links, and the sentences that say what was found."""

    clusters: tuple[FoundCluster, ...]
    links: tuple[FoundLink, ...]
    remarks: tuple[str, ...]


def both_ways(reach: Reach, a: int, b: int, fabric: Fabric) -> float | None:
    """Gbit/s of the slower direction, or None when one direction is closed."""
    there, back = reach.get((a, b, fabric)), reach.get((b, a, fabric))
    return None if there is None or back is None else min(there, back)


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
    return Found(tuple(clusters), _links(clusters, reach), _remarks(nodes, clusters, reach))


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
                rates = [both_ways(reach, x, y, fabric) for x in a.nodes for y in b.nodes]
                known = [rate for rate in rates if rate is not None]
                if known and len(known) == len(rates):
                    links.append(FoundLink((a.name, b.name), fabric, min(known)))
    return tuple(links)


def _remarks(
    nodes: Sequence[NodeFacts], clusters: Sequence[FoundCluster], reach: Reach
) -> tuple[str, ...]:
    lines: list[str] = []
    for cluster in clusters:
        names = ", ".join(nodes[i].name for i in cluster.nodes)
        joined = f"joined by {cluster.fabric.value}" if cluster.fabric else "reached by nobody"
        if len(nodes) > 1:
            lines.append(
                f"cluster {cluster.name}: {names} ({joined}, every pair in both directions)"
            )
    has = {(i, nic.kind) for i, node in enumerate(nodes) for nic in node.nics}
    for a in range(len(nodes)):
        for b in range(a + 1, len(nodes)):
            for fabric in Fabric:
                if (a, fabric) not in has or (b, fabric) not in has:
                    continue
                there, back = (a, b, fabric) in reach, (b, a, fabric) in reach
                if there == back:
                    if not there:
                        lines.append(
                            f"{nodes[a].name} and {nodes[b].name} do not reach each other over "
                            f"{fabric.value}, though both have it"
                        )
                    continue
                x, y = (a, b) if there else (b, a)
                lines.append(
                    f"{nodes[x].name} reaches {nodes[y].name} over {fabric.value}, but not back "
                    "(firewall or route?): not used"
                )
    return tuple(lines)
