"""The flat view of a site: nodes and devices in file order, and who reaches whom.

``rank_map`` values index :attr:`Topology.devices`. Order: cluster, node, device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from holmes.hardware.site import Device, Fabric, Link, Nic, NodeGroup, Site

INTERFACE_PREFIX = {Fabric.INFINIBAND: "ib", Fabric.ROCE: "roce", Fabric.ETHERNET: "eth"}


@dataclass(frozen=True)
class Node:
    """One machine. ``name`` is ``<cluster>-<index within the cluster>``, ``host`` what it
    calls itself, where the site says so."""

    index: int
    name: str
    cluster: str
    group: NodeGroup
    host: str | None = None

    @property
    def device(self) -> Device:
        return self.group.device

    def nic(self, fabric: Fabric) -> Nic | None:
        """The NIC entry of this kind, or None."""
        return next((nic for nic in self.group.nics if nic.kind is fabric), None)

    def interfaces(self, fabric: Fabric) -> tuple[str, ...]:
        """Interface names of a fabric: as given in the site, else ib0, ib1, ... by kind."""
        nic = self.nic(fabric)
        if nic is None:
            return ()
        return nic.interfaces or tuple(f"{INTERFACE_PREFIX[fabric]}{i}" for i in range(nic.count))


@dataclass(frozen=True)
class DeviceSlot:
    """One device: its index in site order and its place in a node."""

    index: int
    node: Node
    local_index: int


@dataclass(frozen=True)
class Path:
    """A fabric that joins a set of nodes, with the links between clusters it crosses."""

    fabric: Fabric
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Topology:
    """Nodes and devices of a site in file order."""

    site: Site

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        nodes: list[Node] = []
        for cluster in self.site.clusters:
            within = 0
            for group in cluster.groups():
                for i in range(group.count):
                    host = group.hosts[i] if group.hosts else None
                    name = f"{cluster.name}-{within}"
                    nodes.append(Node(len(nodes), name, cluster.name, group, host))
                    within += 1
        return tuple(nodes)

    @cached_property
    def devices(self) -> tuple[DeviceSlot, ...]:
        slots: list[DeviceSlot] = []
        for node in self.nodes:
            for local in range(node.device.count):
                slots.append(DeviceSlot(len(slots), node, local))
        return tuple(slots)

    def links_between(self, a: str, b: str, fabric: Fabric) -> Link | None:
        """The direct link of this fabric between two clusters, or None."""
        for link in self.site.links:
            if set(link.between) == {a, b} and link.kind is fabric:
                return link
        return None

    def paths(self, nodes: Sequence[Node]) -> tuple[Path, ...]:
        """Every fabric over which *all* the nodes reach each other.

        Inside one cluster, every NIC kind that all the nodes have. Across
        clusters, a kind that all have and that a site link carries between
        each pair of their clusters. Fastest first, by the slowest member.
        """
        kinds = {(id(node.group), node.cluster): node for node in nodes}
        key = tuple(kinds)
        if key not in self._paths:
            self._paths[key] = self._paths_of(tuple(kinds.values()))
        return self._paths[key]

    @cached_property
    def _paths(self) -> dict[tuple[tuple[int, str], ...], tuple[Path, ...]]:
        """By the entries of the nodes in the site: equal nodes reach the same."""
        return {}

    def _paths_of(self, nodes: Sequence[Node]) -> tuple[Path, ...]:
        found: list[tuple[float, Path]] = []
        clusters = list(dict.fromkeys(node.cluster for node in nodes))
        for fabric in Fabric:
            nics = [node.nic(fabric) for node in nodes]
            if any(nic is None for nic in nics):
                continue
            crossed: list[Link] = []
            reachable = True
            for i, a in enumerate(clusters):
                for b in clusters[i + 1 :]:
                    link = self.links_between(a, b, fabric)
                    if link is None:
                        reachable = False
                    else:
                        crossed.append(link)
            if not reachable:
                continue
            rate = min(nic.total_gbit_s for nic in nics if nic is not None)
            rate = min([rate, *(link.gbit_s for link in crossed)])
            found.append((rate, Path(fabric, tuple(crossed))))
        found.sort(key=lambda item: (-item[0], list(Fabric).index(item[1].fabric)))
        return tuple(path for _, path in found)


def relative_speed(topology: Topology, device: int) -> float:
    """Speed of a device of the site against that of its fastest one, by index in site order."""
    fastest = max(slot.node.device.speed for slot in topology.devices)
    return topology.devices[device].node.device.speed / fastest
