"""The delay matrix: how long bytes took from rank to rank, step by step.

A transfer is timed from the moment both ends are there to the moment it is received, so a
rank that comes late delays nobody's network. In a direct exchange every peer's part has a
time of its own, which the duration of the collective, equal on all members, hides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from holmes.diagnose.records import Records
from holmes.runtime.monitor.flight import FlightStep
from holmes.schedule.instruction import Op

LEAST_BYTES = 16_384
"""Smaller messages pass a shaper's burst and a switch's buffer whatever the rate is."""


class Edge(NamedTuple):
    """A direction between two ranks over one kind of card."""

    source: int
    target: int
    fabric: str


class Sample(NamedTuple):
    """``key`` is the same in every step, so that a message is compared with itself."""

    key: tuple[object, ...]
    step: int
    seconds: float


Delays = Mapping[Edge, Sequence[Sample]]


def delays(records: Records) -> dict[Edge, list[Sample]]:
    """Samples of every edge, over the steps that all ranks recorded."""
    found: dict[Edge, list[Sample]] = defaultdict(list)
    for step in records.complete:
        here = {rank: records.steps[rank][step] for rank in records.steps}
        for edge, sample in (*_transfers(records, here), *_exchanges(records, here)):
            found[edge].append(sample)
    return dict(found)


def matrix(found: Delays, steps: Sequence[int]) -> dict[Edge, float]:
    """Median seconds of the largest message of each edge over some steps."""
    wanted = set(steps)
    means: dict[Edge, float] = {}
    for edge, samples in found.items():
        times = sorted(sample.seconds for sample in samples if sample.step in wanted)
        if times:
            means[edge] = times[len(times) // 2]
    return means


def _transfers(records: Records, here: Mapping[int, FlightStep]) -> Iterator[tuple[Edge, Sample]]:
    order = records.order
    for id_, ins in order.instructions.items():
        if ins.op is not Op.RECEIVE or ins.bytes < LEAST_BYTES:
            continue
        target, source = order.rank_of[id_], ins.partner
        fabric = records.places.fabric(ins.lane)
        sends = [other for other in order.partners.get(id_, ()) if order.rank_of[other] == source]
        if fabric is None or len(sends) != 1:
            continue
        arrived, sent = here[target].spans.get(id_), here[source].spans.get(sends[0])
        if arrived is None or sent is None:
            continue
        seconds = (arrived[1] - max(arrived[0], sent[0])) / 1e9
        step = here[target].step
        yield Edge(source, target, fabric), Sample((id_,), step, max(seconds, 1e-6))


def _exchanges(records: Records, here: Mapping[int, FlightStep]) -> Iterator[tuple[Edge, Sample]]:
    for target, own in here.items():
        for lane, arrivals in own.arrivals.items():
            fabric = records.places.fabric(lane)
            if fabric is None:
                continue
            number: dict[int, int] = defaultdict(int)
            for part in arrivals:
                turn = number[part.peer]
                number[part.peer] += 1
                posts = _posts(here[part.peer].arrivals.get(lane, ()))
                if not part.exact or part.bytes < LEAST_BYTES or turn >= len(posts):
                    continue
                seconds = (part.at - max(part.posted, posts[turn])) / 1e9
                sample = Sample((lane, turn), own.step, max(seconds, 1e-6))
                yield Edge(part.peer, target, fabric), sample


def _posts(arrivals: Sequence[tuple[int, int, int, int, bool]]) -> list[int]:
    """When a member joined each exchange of a lane, in order."""
    return sorted({arrival[1] for arrival in arrivals})
