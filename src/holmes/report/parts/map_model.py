"""What the site map shows, as plain values: cards per cluster and aggregated edges.

Sites with many hosts are folded: a cluster shows its first hosts and one card
for the rest, and edges are summed between the cards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from holmes.hardware.site import Fabric, Site
from holmes.hardware.topology import Node, Topology
from holmes.plan import Group, Plan
from holmes.report import units

MOST_CARDS = 4


@dataclass(frozen=True)
class Port:
    """One NIC kind of a card: total rate of a host, bytes that all its hosts send per step."""

    fabric: Fabric
    gbit_s: float
    bytes_: float


@dataclass(frozen=True)
class Card:
    """One host, or the folded rest of a cluster."""

    index: int
    name: str
    ranks: str
    ports: tuple[Port, ...]


@dataclass(frozen=True)
class ClusterBox:
    """A cluster with the cards it shows."""

    name: str
    note: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Edge:
    """Bytes per step between two cards over one fabric, both directions together."""

    a: int
    b: int
    fabric: Fabric
    bytes_: float
    groups: tuple[str, ...]


@dataclass(frozen=True)
class SiteMap:
    """``links[i]`` describes the link between cluster i and i + 1, or is empty."""

    clusters: tuple[ClusterBox, ...]
    edges: tuple[Edge, ...]
    links: tuple[str, ...]


def site_map(plan: Plan, *, shaped: bool) -> SiteMap:
    """Fold a plan's site and groups into a map; rates are the rehearsal's when it was shaped."""
    topology = Topology(plan.site)
    card_of = _fold(topology)
    node_of = [topology.devices[device].node for device in plan.rank_map]
    sent: dict[tuple[int, Fabric], float] = defaultdict(float)
    for group in plan.groups:
        if group.transport.fabric is not None:
            for rank in group.ranks:
                share = group.bytes_per_step / len(group.ranks)
                sent[card_of[node_of[rank].index], group.transport.fabric] += share
    clusters = []
    for cluster in plan.site.clusters:
        nodes = [node for node in topology.nodes if node.cluster == cluster.name]
        by_card: dict[int, list[Node]] = defaultdict(list)
        for node in nodes:
            by_card[card_of[node.index]].append(node)
        cards = tuple(
            _card(index, members, plan, node_of, sent, shaped) for index, members in by_card.items()
        )
        kinds = ", ".join(dict.fromkeys(node.device.kind for node in nodes))
        hosts = f"{len(nodes)} host{'s' if len(nodes) > 1 else ''}"
        clusters.append(ClusterBox(cluster.name, f"{hosts}, {kinds}", cards))
    return SiteMap(tuple(clusters), _edges(plan, node_of, card_of), _links(plan.site, shaped))


def _fold(topology: Topology) -> dict[int, int]:
    """{node index: card index}; a card's index is that of its first node."""
    card_of: dict[int, int] = {}
    for cluster in topology.site.clusters:
        nodes = [node.index for node in topology.nodes if node.cluster == cluster.name]
        shown = nodes if len(nodes) <= MOST_CARDS else nodes[: MOST_CARDS - 1]
        rest = nodes[len(shown)] if len(shown) < len(nodes) else None
        for index in nodes:
            card_of[index] = index if index in shown or rest is None else rest
    return card_of


def _card(
    index: int,
    members: Sequence[Node],
    plan: Plan,
    node_of: Sequence[Node],
    sent: dict[tuple[int, Fabric], float],
    shaped: bool,
) -> Card:
    first = members[0]
    inside = {node.index for node in members}
    ranks = [rank for rank, node in enumerate(node_of) if node.index in inside]
    ports = tuple(
        Port(
            nic.kind,
            _nic_rate(plan.site, first.cluster, nic.kind, nic.total_gbit_s, shaped),
            sent[index, nic.kind],
        )
        for nic in first.group.nics
    )
    name = first.name if len(members) == 1 else f"{len(members)} more hosts"
    return Card(index, name, _ranks(plan, ranks), ports)


def _ranks(plan: Plan, ranks: Sequence[int]) -> str:
    if not ranks:
        return "no rank"
    stages = [stage.stage for stage in plan.stages if set(stage.ranks) & set(ranks)]
    return f"{_span('rank', ranks)}, {_span('stage', stages)}"


def _span(word: str, numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{word} {numbers[0]}"
    if list(numbers) == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2:
        return f"{word}s {numbers[0]}–{numbers[-1]}"
    text = ", ".join(str(n) for n in numbers[:4])
    return f"{word}s {text}{' …' if len(numbers) > 4 else ''}"


def _nic_rate(site: Site, cluster: str, kind: Fabric, nominal: float, shaped: bool) -> float:
    if not shaped or site.rehearsal is None:
        return nominal
    told = site.rehearsal.rates.get(cluster, {}).get(kind)
    return told if told is not None else nominal * (site.rehearsal.scale or 1.0)


def _links(site: Site, shaped: bool) -> tuple[str, ...]:
    texts = []
    for left, right in pairwise(site.clusters):
        found = [link for link in site.links if set(link.between) == {left.name, right.name}]
        rates = [units.rate(_nic_rate(site, "links", k.kind, k.gbit_s, shaped)) for k in found]
        texts.append(", ".join(f"link {rate}" for rate in rates))
    return tuple(texts)


def _edges(plan: Plan, node_of: Sequence[Node], card_of: dict[int, int]) -> tuple[Edge, ...]:
    """Each group joins its cards in a chain; the few bytes of `world` are left out."""
    total: dict[tuple[int, int, Fabric], float] = defaultdict(float)
    names: dict[tuple[int, int, Fabric], list[str]] = defaultdict(list)
    for group in plan.groups:
        if group.axis == "world" or group.transport.fabric is None:
            continue
        pairs = _pairs(group, node_of, card_of)
        for a, b in pairs:
            total[a, b, group.transport.fabric] += group.bytes_per_step / len(pairs)
            names[a, b, group.transport.fabric].append(group.name)
    return tuple(
        Edge(a, b, fabric, bytes_, tuple(names[a, b, fabric]))
        for (a, b, fabric), bytes_ in total.items()
        if bytes_ > 0
    )


def _pairs(group: Group, node_of: Sequence[Node], card_of: dict[int, int]) -> list[tuple[int, int]]:
    cards = list(dict.fromkeys(card_of[node_of[rank].index] for rank in group.ranks))
    return [(min(a, b), max(a, b)) for a, b in pairwise(cards)]
