"""The event simulator: the runtime's own instruction lists, with links that are shared.

Semantics, the same as the runtime's. Each rank has a main thread that walks
its list: a compute instruction runs there after its waits, anything else is
handed to its lane and the walk goes on. A lane runs its instructions one after
the other, each after its waits. A transfer or collective starts when it is at
the head of the lane of all its members; its flows then share NICs and links
max-min fair with all other flows, and it ends with its last flow. Where the
calibration says so, computation is slower beside traffic (:mod:`.drag`).
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

from holmes.cost.model import CostModel
from holmes.errors import HolmesError
from holmes.events.span import Span, Timeline
from holmes.plan.plan import Plan
from holmes.plan.program import program_of
from holmes.schedule.lower import Program
from holmes.simulate.drag import Drag
from holmes.simulate.tables import Tables, tables_of
from holmes.simulate.wire import Wire

SAME_INSTANT = 1e-12
"""Rates are set once for events nearer than this, seconds; no time is moved by it."""
BYTES_TOLERANCE = 1e-6
CLOCK_TOLERANCE = 1e-15
"""Relative rounding of the time of one flow: what a card moves meanwhile may be off."""


class SimulationError(HolmesError):
    """An instruction list that cannot finish; a bug in a schedule generator."""


@dataclass(frozen=True)
class Simulation:
    """One simulated step.

    Attributes:
        timeline: spans of all ranks as step 0, in order of start.
        events: how many ends (of computations, latencies and flows) were processed.
        carried: bytes that crossed each device link, card and link, by name, counted
            from rates and times; equal to what the instructions ask for.
    """

    timeline: Timeline
    events: int
    carried: dict[str, float]


def simulate(plan: Plan, cost: CostModel, program: Program | None = None) -> Timeline:
    """Predict one step of a plan.

    Args:
        program: the plan's instruction lists, if already generated.

    Returns:
        Spans of all ranks as step 0, in order of start; ``source`` is "predicted".

    Raises:
        SimulationError: the lists deadlock.
        DataError: the plan's digest does not match, or a group is missing.
    """
    return simulate_step(plan, cost, program).timeline


def simulate_step(plan: Plan, cost: CostModel, program: Program | None = None) -> Simulation:
    """As :func:`simulate`, with the count of events and the bytes on every resource.

    Raises:
        SimulationError: the lists deadlock, or bytes were lost or made.
        DataError: the plan's digest does not match, or a group is missing.
    """
    engine = Engine(tables_of(plan, cost, program or program_of(plan)))
    engine.run()
    engine.check()
    carried = dict(zip(engine.tables.resources, engine.wire.carried, strict=True))
    return Simulation(Timeline("predicted", engine.spans()), engine.events, carried)


class Engine:
    """State of one simulation.

    An event is ``(time, code)``: the number of a computation that ends, then
    those of meetings whose latency is over, then those of flows that end.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        count = len(tables.instructions)
        self.first_meeting = count
        self.first_flow = count + len(tables.latency)
        self.missing = list(tables.missing)
        self.absent = list(tables.needed)
        self.flows_left = [0] * len(tables.latency)
        self.pending = [len(meetings) for meetings in tables.joins]
        self.start = [-1.0] * count
        self.stop = [-1.0] * count
        self.heap: list[tuple[float, int]] = []
        self.wire = Wire(tables.kinds, tables.capacity, self.heap, self.first_flow)
        self.drag = Drag(tables) if tables.drag else None
        self.events = 0

    def run(self) -> None:
        """Process events until none is left."""
        for number, count in enumerate(self.tables.missing):
            if count == 0:
                self._begin(number, 0.0)
        heap, wire, end = self.heap, self.wire, self.wire.end
        first_meeting, first_flow = self.first_meeting, self.first_flow
        complete, start_flows = self._complete, self._start_flows
        changed = wire.changed
        events = 0
        while heap:
            now, code = heappop(heap)
            if code < first_meeting:
                events += 1
                if self.drag is None or not self._goes_on(code, now):
                    complete(code, now)
            elif code < first_flow:
                start_flows(code - first_meeting, now)
                events += 1
            elif end[code - first_flow] == now:
                self._flow_over(code - first_flow, now)
                events += 1
            if changed and not (heap and heap[0][0] <= now + SAME_INSTANT):
                wire.share(now)
        self.events = events

    def _begin(self, number: int, now: float) -> None:
        """A computation runs; anything else waits for its partners."""
        self.start[number] = now
        seconds = self.tables.seconds[number]
        if seconds >= 0.0:
            if self.drag is not None:
                self.drag.compute(number, now)
            heappush(self.heap, (now + seconds, number))
            return
        absent = self.absent
        for meeting in self.tables.joins[number]:
            absent[meeting] -= 1
            if not absent[meeting]:
                begin = now + self.tables.latency[meeting]
                heappush(self.heap, (begin, self.first_meeting + meeting))

    def _goes_on(self, number: int, now: float) -> bool:
        """Whether a computation that should end now is still held up by traffic."""
        assert self.drag is not None
        owed = self.drag.owed(number)
        if owed > 0.0:
            heappush(self.heap, (now + owed, number))
            return True
        self.drag.computed(number, now)
        return False

    def _complete(self, number: int, now: float) -> None:
        self.stop[number] = now
        missing = self.missing
        for following in self.tables.after[number]:
            missing[following] -= 1
            if not missing[following]:
                self._begin(following, now)

    def _start_flows(self, meeting: int, now: float) -> None:
        kinds = self.tables.flows[meeting]
        if not kinds:
            self._end_meeting(meeting, now)
            return
        self.flows_left[meeting] = len(kinds)
        if self.drag is not None:
            self.drag.begin(meeting, now)
        for kind in kinds:
            self.wire.add(kind, meeting, now)

    def _flow_over(self, slot: int, now: float) -> None:
        meeting = self.wire.finish(slot, now)
        self.flows_left[meeting] -= 1
        if not self.flows_left[meeting]:
            if self.drag is not None:
                self.drag.end(meeting, now)
            self._end_meeting(meeting, now)

    def _end_meeting(self, meeting: int, now: float) -> None:
        pending = self.pending
        for member in self.tables.members[meeting]:
            pending[member] -= 1
            if not pending[member]:
                self._complete(member, now)

    def check(self) -> None:
        """Everything ended, and every resource carried the bytes that were asked of it.

        Raises:
            SimulationError: naming the instruction or the resource.
        """
        tables = self.tables
        for ins, rank, stop in zip(tables.instructions, tables.rank, self.stop, strict=True):
            if stop < 0.0:
                raise SimulationError(
                    "the instruction lists deadlock",
                    where=f"rank {rank} never ends {ins.op} {ins.buffer} (id {ins.id})",
                    why="a partner never arrives, or two lanes wait for each other",
                )
        asked = [0.0] * len(tables.resources)
        slack = [0.0] * len(tables.resources)
        tick = CLOCK_TOLERANCE * max(self.stop, default=0.0)
        for flows in tables.flows:
            for kind in flows:
                for crossed in tables.kinds.path[kind]:
                    asked[crossed] += tables.kinds.bytes[kind]
                    slack[crossed] += tables.capacity[crossed] * tick
        for at, (name, wanted) in enumerate(zip(tables.resources, asked, strict=True)):
            moved = self.wire.carried[at]
            if abs(moved - wanted) > BYTES_TOLERANCE * wanted + slack[at]:
                raise SimulationError(
                    f"{name} carried {moved:.0f} bytes of {wanted:.0f}",
                    why="a rate or a time of a flow is wrong; a bug in the simulator",
                )

    def spans(self) -> tuple[Span, ...]:
        """Spans of all ranks as step 0, in order of start."""
        tables = self.tables
        spans = [
            Span(
                ins.id,
                rank,
                0,
                ins.lane,
                ins.op.value,
                ins.stage,
                ins.microbatch,
                round(start * 1e9),
                round(stop * 1e9),
                ins.bytes,
                ins.buffer,
            )
            for ins, rank, start, stop in zip(
                tables.instructions, tables.rank, self.start, self.stop, strict=True
            )
        ]
        spans.sort(key=lambda span: (span.start, span.rank, span.id))
        return tuple(spans)
