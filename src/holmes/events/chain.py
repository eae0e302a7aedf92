"""The chain of instructions that made a step as long as it is, and how it differs from another.

From the instruction that ends last, back through whatever each one had to wait
for: every nanosecond of the step is either inside an instruction of the chain or
a gap between two of them. Taken over the same chain, two timelines of one
program therefore differ by the sum of what their instructions and gaps differ by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from holmes.errors import DataError
from holmes.events.order import Order
from holmes.events.span import Span, Timeline
from holmes.schedule.instruction import COMPUTE_OPS

CauseKind = Literal["compute", "transfer", "waiting", "bubble", "outside"]


@dataclass(frozen=True)
class Difference:
    """A part of the difference between two steps, nanoseconds.

    Attributes:
        cause: ``compute`` and ``transfer``: an instruction of the chain took longer
            (of a transfer only the time with all partners there); ``waiting``: the
            chain stood still for longer before an instruction than the other's did;
            ``bubble``: it stood still for less, idle time of the other step that
            absorbed a part; ``outside``: before or after all instructions.
        id: the instruction, None for ``outside`` and at the ends of the step.
        rank: whose instruction; for ``waiting`` the rank that started late.
        before, after: of the first and of the second step.
    """

    cause: CauseKind
    id: int | None
    rank: int | None
    before: int
    after: int

    @property
    def nanoseconds(self) -> int:
        return self.after - self.before


@dataclass(frozen=True)
class Element:
    """One instruction of a chain; ``late`` is the member of its meeting that came last (itself
    for a computation), whose readiness the chain follows."""

    id: int
    late: int
    begin: int
    stop: int


def chain(timeline: Timeline, order: Order) -> list[Element]:
    """The chain of a timeline that holds one step starting at 0 ns, first instruction first.

    Raises:
        DataError: spans that are none of this program's instructions.
    """
    spans = _by_id(timeline, order)
    if not spans:
        return []
    current: int | None = max(spans.values(), key=lambda span: (span.stop, span.id)).id
    found: list[Element] = []
    taken: set[int] = set()
    while current is not None and current not in taken:
        element = _element(current, spans, order)
        found.append(element)
        taken |= {current, element.late}
        earlier = [id_ for id_ in order.before[element.late] if id_ in spans]
        current = max(earlier, key=lambda id_: (spans[id_].stop, id_), default=None)
    return found[::-1]


def differences(first: Timeline, second: Timeline, order: Order) -> list[Difference]:
    """Why the second step is longer (or shorter): parts that add up to the difference of the
    two makespans exactly.

    Args:
        first, second: one step each, starting at 0 ns, of the same program.

    Raises:
        DataError: the spans are not of this program, or the first lacks some.
    """
    path = chain(second, order)
    spans = _by_id(first, order)
    missing = [element.id for element in path if element.id not in spans]
    if missing:
        raise DataError(
            f"instruction {missing[0]} is in only one of the two steps",
            why="they are not of the same plan, or a trace is incomplete",
        )
    found: list[Difference] = []
    stopped_first = stopped_second = 0
    for element in path:
        other = _element(element.id, spans, order)
        rank = order.rank_of[element.late]
        found += _gap(element.id, rank, other.begin - stopped_first, element.begin - stopped_second)
        compute = order.instructions[element.id].op in COMPUTE_OPS
        found.append(
            Difference(
                "compute" if compute else "transfer",
                element.id,
                order.rank_of[element.id],
                other.stop - other.begin,
                element.stop - element.begin,
            )
        )
        stopped_first, stopped_second = other.stop, element.stop
    found += _gap(None, None, first.makespan - stopped_first, 0)
    return found


def _gap(id_: int | None, rank: int | None, before: int, after: int) -> list[Difference]:
    if before == after:
        return []
    return [Difference("waiting" if after > before else "bubble", id_, rank, before, after)]


def _element(id_: int, spans: Mapping[int, Span], order: Order) -> Element:
    span = spans[id_]
    partners = [other for other in order.partners.get(id_, ()) if other in spans]
    if not partners:
        return Element(id_, id_, span.start, span.stop)
    late = max(partners, key=lambda other: (spans[other].start, other == id_, other))
    return Element(id_, late, min(spans[late].start, span.stop), span.stop)


def _by_id(timeline: Timeline, order: Order) -> dict[int, Span]:
    spans = {span.id: span for span in timeline.spans}
    for id_ in spans:
        if id_ not in order.instructions:
            raise DataError(
                f"the trace has a span of instruction {id_}, which the plan does not have",
                why="plan and trace are of different runs",
                next_step="give the plan.json that stands beside the trace",
            )
    return spans
