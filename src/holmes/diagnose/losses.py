"""Where packets are lost: retransmissions per edge between hosts, and the place that explains them.

A segment that is sent again was lost, or its acknowledgement came late. Each place of the
network is tried as a model: its edges lose at a rate of their own, all others at the rate
that the run began with. The likeliest model (Poisson) names the place.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holmes.diagnose.change import Windows
from holmes.diagnose.edges import Edge
from holmes.diagnose.records import Places, Records
from holmes.diagnose.suspects import Suspect, suspects
from holmes.diagnose.verdict import Verdict

LEAST_LOSS = 0.002
"""Share of segments sent again from which on a place counts as lossy."""
USUAL_LOSS = 0.0002
"""What any network may lose."""
TIMES = 5.0
"""At least so many times the rate that the run began with."""
LEAST_EVIDENCE = 8.0
"""Gain in log-likelihood over "as at the start", about one false alarm in some thousand runs."""
LEAST_EXPLAINED = 0.75
LEAST_SPREAD = 0.6
"""Of the steps in which chance would show losses; a hiccup of the machine is in one or two."""
SURE = 0.95
TIE = 1e-6


@dataclass(frozen=True)
class Sent:
    """Data segments of an edge, and how many of them were sent again."""

    segments: int = 0
    again: int = 0

    @property
    def share(self) -> float:
        return self.again / self.segments if self.segments else 0.0


def sent(records: Records, steps: Sequence[int]) -> dict[Edge, Sent]:
    """Per pair of hosts, direction and card, over some steps; each host by its first rank."""
    places = records.places
    first: dict[str, int] = {}
    for rank in sorted(records.steps, reverse=True):
        first[places.host(rank)] = rank
    owner = _owners(records)
    segments: Counter[Edge] = Counter()
    again: Counter[Edge] = Counter()
    for rank, found in records.steps.items():
        for step in steps:
            for wire in found[step].wires:
                nic = places.nic(rank, wire.interface)
                host = owner.get(wire.remote)
                if nic is None or host is None or host == places.host(rank):
                    continue
                edge = Edge(first[places.host(rank)], first[host], nic)
                segments[edge] += wire.segments
                again[edge] += wire.retransmits
    return {edge: Sent(count, max(0, again[edge])) for edge, count in segments.items()}


def why_lossy(records: Records, compared: Windows) -> Verdict | None:
    """The place that loses packets since some step of the run; None where there is none."""
    early = total(sent(records, compared.before))
    late = sent(records, compared.after)
    usual = max(USUAL_LOSS, early.share)
    everything = total(late)
    tried = [
        (_gain(part, usual), part, place)
        for place in suspects(late.keys(), records.places)
        for part in (total({e: late[e] for e in place.edges}),)
    ]
    best = max((gain for gain, _, _ in tried), default=0.0)
    if best < LEAST_EVIDENCE:
        return None
    equal = [(part, place) for gain, part, place in tried if gain > best - TIE]
    whole = [one for one in equal if one[1].cls == "slow-link"] or equal
    part, place = whole[0]
    explained = part.again / everything.again
    if part.share < max(LEAST_LOSS, TIMES * early.share) or explained < LEAST_EXPLAINED:
        return None
    if _spread(records, compared.after, place) < LEAST_SPREAD:
        return None
    lines = _lines(late, place, early, records.places)
    sure = SURE * explained / len(whole)
    if len(whole) == 1:
        return Verdict("lossy-link", None, place.host, place.nic, place.link, sure, lines)
    hosts = sorted({records.places.host(rank) for edge in place.edges for rank in edge[:2]})
    note = f"{len(whole)} places explain it equally well, since too few edges cross them"
    return Verdict(
        "lossy-link", None, None, place.nic, "-".join(hosts), sure, evidence=(*lines, note)
    )


def total(found: Mapping[Edge, Sent]) -> Sent:
    """Over all edges."""
    return Sent(
        sum(one.segments for one in found.values()), sum(one.again for one in found.values())
    )


def _gain(part: Sent, usual: float) -> float:
    """Log-likelihood ratio of a place with a rate of its own, against the usual rate."""
    if part.share <= usual:
        return 0.0
    expected = usual * part.segments
    return part.again * math.log(part.again / expected) - (part.again - expected)


def _spread(records: Records, steps: Sequence[int], place: Suspect) -> float:
    """In how many steps a place lost something, over how many it would by chance."""
    lost = [
        sum(one.again for edge, one in sent(records, (step,)).items() if edge in place.edges)
        for step in steps
    ]
    by_chance = 1.0 - math.exp(-sum(lost) / len(steps))
    return sum(count > 0 for count in lost) / len(steps) / by_chance


def _owners(records: Records) -> dict[str, str]:
    """The host of every address that connections end at; an address of two hosts tells nothing."""
    hosts: dict[str, set[str]] = defaultdict(set)
    for rank, found in records.steps.items():
        for step in found.values():
            for wire in step.wires:
                hosts[wire.local].add(records.places.host(rank))
    return {address: next(iter(names)) for address, names in hosts.items() if len(names) == 1}


def _lines(
    late: Mapping[Edge, Sent], place: Suspect, early: Sent, places: Places
) -> tuple[str, ...]:
    lines = [
        f"{edge.fabric} from {places.host(edge.source)} to {places.host(edge.target)}: "
        f"{late[edge].again} of {late[edge].segments} segments sent again ({late[edge].share:.2%})"
        for edge in sorted(place.edges, key=lambda one: -late[one].share)[:6]
    ]
    rest = total({edge: one for edge, one in late.items() if edge not in place.edges})
    lines.append(f"elsewhere {rest.share:.2%}, at the start of the run {early.share:.2%}")
    return tuple(lines)
