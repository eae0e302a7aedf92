"""What is joined to what in the lab: bridges, cables, addresses and forwarding entries.

A pure function of the site and its rehearsal rates; :mod:`holmes.lab.netlink`
builds exactly this. Bridges neither learn nor flood: each has one static entry
per reachable card, along the shortest chain of site links, so links that form a
cycle make no loop and a direct link always carries its own traffic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holmes.errors import ConfigError
from holmes.hardware.site import Fabric
from holmes.hardware.topology import Node, Topology
from holmes.lab.rates import Rates

MOST_HOSTS = 64
PREFIX_LENGTH = 16
LONGEST_NAME = 15
"""Linux interface names have at most 15 characters."""
TAKEN_NAMES = frozenset({"lo", "all", "default"})


class BuildError(Exception):
    """The kernel refused one step of building a network; the message names the step."""


@dataclass(frozen=True)
class Interface:
    """A card of a host, the bridge port at the other end of its cable, and whom it reaches.

    ``neighbours`` are (IPv4 address, MAC address) of every other card of the
    same fabric that the site connects to this one.
    """

    fabric: Fabric
    name: str
    mac: str
    address: str
    gbit_s: float
    port: str
    bridge: str
    neighbours: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Trunk:
    """The cable of one site link: two ports, each on the bridge of one cluster."""

    link: int
    ports: tuple[str, str]
    bridges: tuple[str, str]
    gbit_s: float


@dataclass(frozen=True)
class Spread:
    """An address of a host that is on no card, and a way to a peer's over several cards.

    ``via`` are (own interface, the peer's address on the same path); the kernel
    picks one per connection by a hash of addresses and ports (ECMP).
    """

    host: int
    address: str
    peer: str
    via: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Wiring:
    """The whole lab network; ``hosts[i]`` are the interfaces of node ``i``.

    ``forwards`` are (bridge port, MAC address) pairs: where the bridge of that
    port sends frames for that address.
    """

    hosts: tuple[tuple[Interface, ...], ...]
    bridges: tuple[str, ...]
    trunks: tuple[Trunk, ...]
    forwards: tuple[tuple[str, str], ...]
    spreads: tuple[Spread, ...] = ()


def wiring_from(data: Mapping[str, Any]) -> Wiring:
    """The inverse of :func:`dataclasses.asdict`, after a trip through JSON."""
    return Wiring(
        hosts=tuple(tuple(_interface_from(one) for one in host) for host in data["hosts"]),
        bridges=tuple(data["bridges"]),
        trunks=tuple(
            Trunk(one["link"], tuple(one["ports"]), tuple(one["bridges"]), one["gbit_s"])
            for one in data["trunks"]
        ),
        forwards=tuple((port, mac) for port, mac in data["forwards"]),
        spreads=tuple(
            Spread(**{**one, "via": tuple((card, way) for card, way in one["via"])})
            for one in data["spreads"]
        ),
    )


def _interface_from(data: Mapping[str, Any]) -> Interface:
    neighbours = tuple((address, mac) for address, mac in data["neighbours"])
    return Interface(**{**data, "fabric": Fabric(data["fabric"]), "neighbours": neighbours})


def wire(topology: Topology, rates: Rates) -> Wiring:
    """The network of a site, one interface per ``nics`` entry of every node.

    Raises:
        ConfigError: too many nodes for one machine, or an interface name that
            the kernel does not take.
    """
    if len(topology.nodes) > MOST_HOSTS:
        raise ConfigError(
            f"the site has {len(topology.nodes)} nodes, too many to rehearse on one machine",
            where="clusters",
            why=f"a rehearsal brings up at most {MOST_HOSTS} hosts",
            next_step="rehearse a site with fewer nodes per cluster",
        )
    for node in topology.nodes:
        _check_names(node)
    parts = [_Fabric(topology, rates, fabric) for fabric in Fabric]
    return Wiring(
        hosts=tuple(
            tuple(part.interface(node) for part in parts if node.nic(part.fabric))
            for node in topology.nodes
        ),
        bridges=tuple(part.bridge(name) for part in parts for name in part.clusters),
        trunks=tuple(trunk for part in parts for trunk in part.trunks),
        forwards=tuple(entry for part in parts for entry in part.forwards()),
    )


class _Fabric:
    """One fabric of the site: its member nodes, clusters, trunks and shortest routes."""

    def __init__(self, topology: Topology, rates: Rates, fabric: Fabric) -> None:
        self.fabric = fabric
        self.code = list(Fabric).index(fabric)
        self.rates = rates
        self.members = [node for node in topology.nodes if node.nic(fabric)]
        self.order = [cluster.name for cluster in topology.site.clusters]
        joined: dict[frozenset[str], int] = {}
        for number, link in enumerate(topology.site.links):
            if link.kind is fabric:
                joined.setdefault(frozenset(link.between), number)
        present = {node.cluster for node in self.members}.union(*joined)
        self.clusters = [name for name in self.order if name in present]
        self.trunks = [
            self._trunk(number, *topology.site.links[number].between)
            for number in sorted(joined.values())
        ]
        self.ports: dict[str, dict[str, str]] = {name: {} for name in self.clusters}
        for trunk in self.trunks:
            a, b = topology.site.links[trunk.link].between
            self.ports[a][b], self.ports[b][a] = trunk.ports
        self.steps = {name: self._steps_to(name) for name in self.clusters}

    def bridge(self, cluster: str) -> str:
        return f"b{self.code}.{self.order.index(cluster)}"

    def mac(self, node: Node) -> str:
        return f"02:48:4c:{self.code:02x}:00:{node.index:02x}"

    def address(self, node: Node) -> str:
        """One subnet per island; Ethernet is one subnet for the whole site."""
        island = 0
        if self.fabric is not Fabric.ETHERNET:
            island = min(self.order.index(name) for name in self.steps[node.cluster])
        return f"10.{MOST_HOSTS * self.code + island}.0.{node.index + 1}"

    def interface(self, node: Node) -> Interface:
        reached = [
            other
            for other in self.members
            if other.index != node.index and other.cluster in self.steps[node.cluster]
        ]
        return Interface(
            fabric=self.fabric,
            name=node.interfaces(self.fabric)[0],
            mac=self.mac(node),
            address=self.address(node),
            gbit_s=self.rates.nics[node.index, self.fabric],
            port=f"p{self.code}.{node.index}",
            bridge=self.bridge(node.cluster),
            neighbours=tuple((self.address(other), self.mac(other)) for other in reached),
        )

    def forwards(self) -> list[tuple[str, str]]:
        entries = []
        for node in self.members:
            entries.append((f"p{self.code}.{node.index}", self.mac(node)))
            for cluster, step in self.steps[node.cluster].items():
                if step is not None:
                    entries.append((self.ports[cluster][step], self.mac(node)))
        return entries

    def _trunk(self, number: int, a: str, b: str) -> Trunk:
        return Trunk(
            link=number,
            ports=(f"t{number}.0", f"t{number}.1"),
            bridges=(self.bridge(a), self.bridge(b)),
            gbit_s=self.rates.links[number],
        )

    def _steps_to(self, goal: str) -> Mapping[str, str | None]:
        """For each cluster that reaches ``goal``: the next cluster on the way (None at it)."""
        steps: dict[str, str | None] = {goal: None}
        waiting = deque([goal])
        while waiting:
            here = waiting.popleft()
            for there in self.ports[here]:
                if there not in steps:
                    steps[there] = here
                    waiting.append(there)
        return steps


def _check_names(node: Node) -> None:
    seen: set[str] = set()
    for nic in node.group.nics:
        name = node.interfaces(nic.kind)[0]
        if len(name) > LONGEST_NAME or name in TAKEN_NAMES or name in seen:
            raise ConfigError(
                f"{name!r} cannot be an interface of host {node.name}",
                where=f"clusters.{node.cluster}.nics.{nic.kind}.interfaces",
                why=f"names have at most {LONGEST_NAME} characters, differ within a node and are "
                f"none of {', '.join(sorted(TAKEN_NAMES))}",
                next_step="change or remove the entry in `interfaces`",
            )
        seen.add(name)
