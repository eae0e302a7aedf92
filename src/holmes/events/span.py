"""Span and Timeline: what happened, or is predicted to happen, on each rank.

A predicted Timeline and a measured Trace are the same type; spans of both carry
the instruction id, so the two can be laid over each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Span:
    """One instruction on one rank in one step. Times are integer nanoseconds.

    ``start`` of a communication is when its lane was free and its waits were
    met on this rank, so it includes waiting for the partners.
    """

    id: int
    rank: int
    step: int
    lane: str
    op: str
    stage: int
    microbatch: int | None
    start: int
    stop: int
    bytes: int = 0
    buffer: str = ""


@dataclass(frozen=True)
class Timeline:
    """Spans of one or more steps; ``source`` says which of the two kinds it is."""

    source: Literal["predicted", "measured"]
    spans: tuple[Span, ...] = field(default_factory=tuple)

    def step(self, number: int) -> Timeline:
        """The spans of one step, shifted so that the step starts at 0."""
        spans = [span for span in self.spans if span.step == number]
        return Timeline(self.source, tuple(_shifted(spans)))

    @property
    def makespan(self) -> int:
        """Nanoseconds from the first start to the last stop."""
        if not self.spans:
            return 0
        return max(s.stop for s in self.spans) - min(s.start for s in self.spans)


def _shifted(spans: list[Span]) -> Iterable[Span]:
    origin = min((span.start for span in spans), default=0)
    for span in spans:
        yield Span(
            span.id,
            span.rank,
            span.step,
            span.lane,
            span.op,
            span.stage,
            span.microbatch,
            span.start - origin,
            span.stop - origin,
            span.bytes,
            span.buffer,
        )
