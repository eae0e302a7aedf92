"""Span and Timeline: what happened, or is predicted to happen, on each rank.

A predicted Timeline and a measured Trace are the same type; spans of both carry
the instruction id, so the two can be laid over each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True)
class Span:
    """One instruction on one rank in one step. Times are integer nanoseconds.

    ``start`` of a communication is when its lane was free and its waits were
    met on this rank, so it includes waiting for the partners. ``inner`` numbers the parts of
    an instruction that are told apart, from 1; 0 is the instruction itself.
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
    inner: int = 0


@dataclass(frozen=True)
class Timeline:
    """Spans of one or more steps; ``source`` says which of the two kinds it is.

    ``spans`` are whole instructions; ``inner`` are parts of them, with the same ids: what ran
    beside what inside a block.
    """

    source: Literal["predicted", "measured"]
    spans: tuple[Span, ...] = field(default_factory=tuple)
    inner: tuple[Span, ...] = field(default_factory=tuple)

    def step(self, number: int) -> Timeline:
        """The spans of one step, shifted so that the step starts at 0."""
        spans = [span for span in self.spans if span.step == number]
        inner = [span for span in self.inner if span.step == number]
        origin = min((span.start for span in spans), default=0)
        return Timeline(self.source, tuple(_shifted(spans, origin)), tuple(_shifted(inner, origin)))

    @property
    def makespan(self) -> int:
        """Nanoseconds from the first start to the last stop."""
        if not self.spans:
            return 0
        return max(s.stop for s in self.spans) - min(s.start for s in self.spans)


def _shifted(spans: Iterable[Span], origin: int) -> Iterable[Span]:
    for span in spans:
        yield replace(span, start=span.start - origin, stop=span.stop - origin)
