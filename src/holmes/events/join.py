"""Predicted and measured laid over each other, and where the time of a step went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from holmes.events.span import Span, Timeline

COMPUTE_LANE = "compute"


@dataclass(frozen=True)
class Pair:
    """One instruction, predicted and measured, from steps that both start at 0 ns."""

    predicted: Span
    measured: Span

    @property
    def delta(self) -> int:
        """Measured duration less predicted duration, nanoseconds."""
        measured = self.measured.stop - self.measured.start
        return measured - (self.predicted.stop - self.predicted.start)

    @property
    def lateness(self) -> int:
        """How much later than predicted it ended, nanoseconds."""
        return self.measured.stop - self.predicted.stop


@dataclass(frozen=True)
class Join:
    """Spans of one step joined by instruction id, in id order."""

    pairs: tuple[Pair, ...]
    only_predicted: tuple[Span, ...]
    only_measured: tuple[Span, ...]


@dataclass(frozen=True)
class Shares:
    """Where the makespan of a step went on one rank (or on average), nanoseconds.

    ``compute``: the compute lane is busy. ``transfer``: it is idle while at least
    one lane moves bytes. ``waiting``: it is idle and nothing moves. They add up
    to the makespan.
    """

    compute: float
    transfer: float
    waiting: float

    @property
    def total(self) -> float:
        return self.compute + self.transfer + self.waiting


@dataclass(frozen=True)
class OpSummary:
    """Mean duration of one operation over its joined instructions, nanoseconds.

    Of communication only the time on the wire counts, not the wait for partners.
    """

    op: str
    count: int
    predicted: float
    measured: float


def join(predicted: Timeline, measured: Timeline, step: int | None = None) -> Join:
    """Join two timelines by instruction id.

    Args:
        predicted: spans of one step.
        measured: spans of one or more steps.
        step: the measured step to take, by default the first.
    """
    if step is None:
        step = min((span.step for span in measured.spans), default=0)
    ours = {span.id: span for span in _only_step(predicted).spans}
    theirs = {span.id: span for span in measured.step(step).spans}
    both = sorted(ours.keys() & theirs.keys())
    return Join(
        tuple(Pair(ours[i], theirs[i]) for i in both),
        tuple(ours[i] for i in sorted(ours.keys() - theirs.keys())),
        tuple(theirs[i] for i in sorted(theirs.keys() - ours.keys())),
    )


def _only_step(timeline: Timeline) -> Timeline:
    first = min((span.step for span in timeline.spans), default=0)
    return timeline.step(first)


def wire_starts(spans: Iterable[Span]) -> dict[tuple[int, int], int]:
    """When bytes began to move: {(step, id): ns}, for communication spans only.

    A span's start is when *this* rank was ready; the operation itself begins
    when its last member is. Both ends of a transfer share lane, cut and micro-batch,
    all members of a collective share lane and buffer.
    """
    members: dict[tuple[object, ...], list[Span]] = defaultdict(list)
    for span in spans:
        if span.lane != COMPUTE_LANE:
            transfer = span.op in ("send", "receive")
            what = (_cut(span), span.microbatch) if transfer else f"{span.op} {span.buffer}"
            members[span.step, span.lane, what].append(span)
    starts: dict[tuple[int, int], int] = {}
    for together in members.values():
        latest = max(span.start for span in together)
        for span in together:
            starts[span.step, span.id] = min(latest, span.stop)
    return starts


def _cut(span: Span) -> int:
    """The stage above the cut that a transfer crosses; each end names its own stage."""
    below = (span.op == "receive") == span.lane.endswith(".down")
    return span.stage - 1 if below else span.stage


def shares(timeline: Timeline) -> dict[int, Shares]:
    """Compute, transfer and waiting of each rank, for the spans of one step."""
    if not timeline.spans:
        return {}
    begin = min(span.start for span in timeline.spans)
    end = begin + timeline.makespan
    wire = wire_starts(timeline.spans)
    by_rank: dict[int, list[Span]] = defaultdict(list)
    for span in timeline.spans:
        by_rank[span.rank].append(span)
    result: dict[int, Shares] = {}
    for rank, spans in sorted(by_rank.items()):
        busy = [(s.start, s.stop) for s in spans if s.lane == COMPUTE_LANE]
        moving = [(wire[s.step, s.id], s.stop) for s in spans if s.lane != COMPUTE_LANE]
        compute = _covered(busy)
        either = _covered([*busy, *moving])
        result[rank] = Shares(compute, either - compute, end - begin - either)
    return result


def mean_shares(of_ranks: Iterable[Shares]) -> Shares:
    """The average over ranks; all zero when there is none."""
    every = list(of_ranks)
    if not every:
        return Shares(0.0, 0.0, 0.0)
    return Shares(
        fmean(s.compute for s in every),
        fmean(s.transfer for s in every),
        fmean(s.waiting for s in every),
    )


def by_operation(joined: Join) -> list[OpSummary]:
    """Mean predicted and measured duration of each operation, in order of first use."""
    predicted_wire = wire_starts(pair.predicted for pair in joined.pairs)
    measured_wire = wire_starts(pair.measured for pair in joined.pairs)
    durations: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for pair in joined.pairs:
        durations[pair.predicted.op].append(
            (_on_wire(pair.predicted, predicted_wire), _on_wire(pair.measured, measured_wire))
        )
    return [
        OpSummary(op, len(rows), fmean(p for p, _ in rows), fmean(m for _, m in rows))
        for op, rows in durations.items()
    ]


def _on_wire(span: Span, wire: dict[tuple[int, int], int]) -> int:
    return span.stop - wire.get((span.step, span.id), span.start)


def _covered(intervals: Sequence[tuple[int, int]]) -> int:
    """Length of the union of intervals."""
    total = 0
    reached: int | None = None
    for start, stop in sorted(intervals):
        if reached is None or start > reached:
            reached = start
        if stop > reached:
            total += stop - reached
            reached = stop
    return total
