"""What a timeline says: step time, bubbles, and communication that nothing hides.

Works on predicted and measured timelines alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from holmes.events.span import Span, Timeline

Interval = tuple[int, int]


@dataclass(frozen=True)
class Summary:
    """One step in numbers; seconds, and fractions of the step.

    Attributes:
        step_seconds: first start to last stop over all ranks.
        bubble_fraction: per rank, the share of the step in which it computes nothing.
        transfer_seconds: per rank and lane, time in which the lane's operations really
            run (all partners there), not the wait for partners.
        exposed_seconds: the part of that during which the rank computes nothing.
    """

    step_seconds: float
    bubble_fraction: dict[int, float]
    transfer_seconds: dict[int, dict[str, float]]
    exposed_seconds: dict[int, dict[str, float]]

    @property
    def mean_bubble_fraction(self) -> float:
        """Mean over ranks."""
        return sum(self.bubble_fraction.values()) / max(1, len(self.bubble_fraction))


def summarize(timeline: Timeline) -> Summary:
    """Summary of a timeline that holds one step."""
    length = timeline.makespan
    by_rank: dict[int, list[Span]] = {}
    for span in timeline.spans:
        by_rank.setdefault(span.rank, []).append(span)
    running = _running(timeline)
    bubbles: dict[int, float] = {}
    transfers: dict[int, dict[str, float]] = {}
    exposed: dict[int, dict[str, float]] = {}
    for rank, spans in sorted(by_rank.items()):
        computing = _merged((s.start, s.stop) for s in spans if s.lane == "compute")
        busy = _length(computing)
        bubbles[rank] = 1.0 - busy / length if length else 0.0
        lanes: dict[str, list[Interval]] = {}
        for span in spans:
            if span.lane != "compute":
                lanes.setdefault(span.lane, []).append((running[span.id], span.stop))
        transfers[rank], exposed[rank] = {}, {}
        for lane, intervals in sorted(lanes.items()):
            total = _length(_merged(intervals))
            hidden = total + busy - _length(_merged([*intervals, *computing]))
            transfers[rank][lane] = total * 1e-9
            exposed[rank][lane] = (total - hidden) * 1e-9
    return Summary(length * 1e-9, bubbles, transfers, exposed)


def _running(timeline: Timeline) -> dict[int, int]:
    """When each communication had all its partners: the latest start among them.

    The k-th operation of a rank on a lane meets the k-th of its partners there.
    """
    count: dict[tuple[int, str], int] = {}
    latest: dict[tuple[str, int], int] = {}
    key_of: dict[int, tuple[str, int]] = {}
    for span in sorted(timeline.spans, key=lambda s: (s.start, s.id)):
        if span.lane == "compute":
            continue
        number = count.get((span.rank, span.lane), 0)
        count[span.rank, span.lane] = number + 1
        key_of[span.id] = (span.lane, number)
        latest[span.lane, number] = max(latest.get((span.lane, number), span.start), span.start)
    stops = {span.id: span.stop for span in timeline.spans}
    return {id_: min(latest[key], stops[id_]) for id_, key in key_of.items()}


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for start, stop in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged


def _length(intervals: Iterable[Interval]) -> int:
    return sum(stop - start for start, stop in intervals)
