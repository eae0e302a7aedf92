"""The event simulator: the runtime's own instruction lists, with links that are shared.

Semantics, the same as the runtime's. Each rank has a main thread that walks
its list: a compute instruction runs there after its waits, anything else is
handed to its lane and the walk goes on. A lane runs its instructions one after
the other, each after its waits. A transfer or collective starts when it is at
the head of the lane of all its members; its flows then share NICs and links
max-min fair with all other flows, and it ends with its last flow.
"""

from __future__ import annotations

import heapq
from collections import deque
from enum import IntEnum

from holmes.cost.model import CostModel
from holmes.errors import HolmesError
from holmes.events.span import Span, Timeline
from holmes.plan.plan import Plan
from holmes.plan.program import program_of
from holmes.schedule.instruction import COMPUTE_OPS, Instruction
from holmes.schedule.lower import Program
from holmes.simulate.meetings import Meeting, meetings_of, program_ranks
from holmes.simulate.traffic import ActiveFlow, Wire

SAME_INSTANT = 1e-10
"""Events nearer than this (seconds) count as simultaneous."""


class SimulationError(HolmesError):
    """An instruction list that cannot finish; a bug in a schedule generator."""


class _Kind(IntEnum):
    COMPUTED = 0
    LATENCY_OVER = 1
    FLOW_ENDED = 2


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
    return _Engine(plan, cost, program or program_of(plan)).run()


class _Engine:
    """State of one simulation; instructions are known by their id."""

    def __init__(self, plan: Plan, cost: CostModel, program: Program) -> None:
        self.plan = plan
        self.cost = cost
        ranks = program_ranks(plan)
        self.lists = dict(zip(ranks, program.ranks, strict=True))
        self.by_id: dict[int, Instruction] = {}
        self.rank_of: dict[int, int] = {}
        self.unmet: dict[int, int] = {}
        self.dependents: dict[int, list[int]] = {}
        for rank, instructions in self.lists.items():
            for ins in instructions:
                self.by_id[ins.id] = ins
                self.rank_of[ins.id] = rank
                self.unmet[ins.id] = len(ins.waits)
                for wait in ins.waits:
                    self.dependents.setdefault(wait, []).append(ins.id)
        network = cost.network(plan.rank_map)
        self.meetings = meetings_of(plan, program, network)
        self.pending = {id_: len(found) for id_, found in self.meetings.items()}
        self.wire = Wire(network.capacity)
        self.position = dict.fromkeys(ranks, 0)
        self.computing = dict.fromkeys(ranks, False)
        self.queues: dict[tuple[int, str], deque[int]] = {}
        self.start: dict[int, float] = {}
        self.stop: dict[int, float] = {}
        self.seconds: dict[tuple[int, str, tuple[int, int]], float] = {}
        self.heap: list[tuple[float, int, _Kind, object, int]] = []
        self.pushed = 0
        self.now = 0.0

    def run(self) -> Timeline:
        for rank in self.lists:
            self._walk(rank)
        self._share()
        while self.heap:
            self.now = self.heap[0][0]
            while self.heap and self.heap[0][0] <= self.now + SAME_INSTANT:
                _, _, kind, subject, version = heapq.heappop(self.heap)
                self._handle(kind, subject, version)
            self._share()
        self._check_finished()
        return Timeline("predicted", self._spans())

    def _push(self, time: float, kind: _Kind, subject: object, version: int = 0) -> None:
        self.pushed += 1
        heapq.heappush(self.heap, (time, self.pushed, kind, subject, version))

    def _handle(self, kind: _Kind, subject: object, version: int) -> None:
        if kind is _Kind.COMPUTED:
            assert isinstance(subject, int)
            self.computing[self.rank_of[subject]] = False
            self._complete(subject)
        elif kind is _Kind.LATENCY_OVER:
            assert isinstance(subject, Meeting)
            self._start_flows(subject)
        else:
            assert isinstance(subject, ActiveFlow)
            if subject.version == version:
                self.wire.remove(subject)
                self._flow_ended(subject.owner)

    def _share(self) -> None:
        for active in self.wire.share(self.now):
            self._push(active.end(), _Kind.FLOW_ENDED, active, active.version)

    def _walk(self, rank: int) -> None:
        """Let the main thread of a rank go on until it computes, waits or ends."""
        instructions = self.lists[rank]
        while not self.computing[rank] and self.position[rank] < len(instructions):
            ins = instructions[self.position[rank]]
            if ins.op in COMPUTE_OPS:
                if self.unmet[ins.id]:
                    return
                self.start[ins.id] = self.now
                self.computing[rank] = True
                self._push(self.now + self._compute_seconds(rank, ins), _Kind.COMPUTED, ins.id)
                self.position[rank] += 1
            else:
                self.position[rank] += 1
                queue = self.queues.setdefault((rank, ins.lane), deque())
                queue.append(ins.id)
                if queue[0] == ins.id:
                    self._try_head(queue)

    def _compute_seconds(self, rank: int, ins: Instruction) -> float:
        key = (rank, ins.op.value, ins.blocks)
        if key not in self.seconds:
            self.seconds[key] = self.cost.compute_seconds(self.plan, rank, ins)
        return self.seconds[key]

    def _try_head(self, queue: deque[int]) -> None:
        """The head of a lane joins its meetings once its waits are met."""
        if not queue or self.unmet[queue[0]] or queue[0] in self.start:
            return
        head = queue[0]
        self.start[head] = self.now
        for meeting in self.meetings[head]:
            meeting.arrived += 1
            if meeting.arrived == meeting.needed:
                self._push(self.now + meeting.traffic.latency, _Kind.LATENCY_OVER, meeting)

    def _start_flows(self, meeting: Meeting) -> None:
        flows = [flow for flow in meeting.traffic.flows if flow.bytes > 0]
        meeting.flows_left = len(flows)
        for flow in flows:
            self.wire.add(flow, meeting, self.now)
        if not flows:
            self._finish(meeting)

    def _flow_ended(self, meeting: Meeting) -> None:
        meeting.flows_left -= 1
        if meeting.flows_left == 0:
            self._finish(meeting)

    def _finish(self, meeting: Meeting) -> None:
        for member in meeting.members:
            self.pending[member] -= 1
            if self.pending[member] == 0:
                self._complete(member)

    def _complete(self, id_: int) -> None:
        self.stop[id_] = self.now
        rank = self.rank_of[id_]
        ins = self.by_id[id_]
        if ins.op not in COMPUTE_OPS:
            queue = self.queues[rank, ins.lane]
            queue.popleft()
            self._try_head(queue)
        for waiting in self.dependents.get(id_, ()):
            self.unmet[waiting] -= 1
            if self.unmet[waiting] == 0 and self.by_id[waiting].op not in COMPUTE_OPS:
                queue = self.queues.get((rank, self.by_id[waiting].lane), deque())
                if queue and queue[0] == waiting:
                    self._try_head(queue)
        self._walk(rank)

    def _check_finished(self) -> None:
        for rank, instructions in self.lists.items():
            for ins in instructions:
                if ins.id not in self.stop:
                    raise SimulationError(
                        "the instruction lists deadlock",
                        where=f"rank {rank} never ends {ins.op} {ins.buffer} (id {ins.id})",
                        why="a partner never arrives, or two lanes wait for each other",
                    )

    def _spans(self) -> tuple[Span, ...]:
        spans = [
            Span(
                id=id_,
                rank=self.rank_of[id_],
                step=0,
                lane=ins.lane,
                op=ins.op.value,
                stage=ins.stage,
                microbatch=ins.microbatch,
                start=round(self.start[id_] * 1e9),
                stop=round(self.stop[id_] * 1e9),
                bytes=ins.bytes,
                buffer=ins.buffer,
            )
            for id_, ins in self.by_id.items()
        ]
        spans.sort(key=lambda span: (span.start, span.rank, span.id))
        return tuple(spans)
