"""The places of a network that a fault can be at, each with the edges that use it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from holmes.diagnose.edges import Edge
from holmes.diagnose.records import Places
from holmes.diagnose.verdict import VerdictClass


@dataclass(frozen=True)
class Suspect:
    """A part of the network, with the edges that use it."""

    cls: VerdictClass
    host: str | None
    nic: str
    link: str | None
    edges: frozenset[Edge]


def suspects(moving: Collection[Edge], places: Places) -> Iterator[Suspect]:
    """Every card (both ways, sending, receiving), pair of hosts and link that some edge uses."""
    cards = sorted({(places.host(rank), edge.fabric) for edge in moving for rank in edge[:2]})
    for host, nic in cards:
        mine = [edge for edge in moving if edge.fabric == nic]
        out = frozenset(edge for edge in mine if places.host(edge.source) == host)
        into = frozenset(edge for edge in mine if places.host(edge.target) == host)
        yield Suspect("slow-link", host, nic, None, out | into)
        if out and into:
            yield Suspect("slow-sender", host, nic, None, out)
            yield Suspect("slow-receiver", host, nic, None, into)
    pairs = {(frozenset((places.host(e.source), places.host(e.target))), e.fabric) for e in moving}
    for hosts, nic in sorted(pairs, key=lambda pair: (sorted(pair[0]), pair[1])):
        between = frozenset(
            edge
            for edge in moving
            if edge.fabric == nic and {places.host(rank) for rank in edge[:2]} == hosts
        )
        yield Suspect("slow-link", None, nic, "-".join(sorted(hosts)), between)
    for link in places.plan.site.links:
        ends = set(link.between)
        crossing = frozenset(
            edge
            for edge in moving
            if edge.fabric == link.kind.value
            and {places.cluster(edge.source), places.cluster(edge.target)} == ends
        )
        if crossing:
            yield Suspect("slow-link", None, link.kind.value, "-".join(link.between), crossing)
