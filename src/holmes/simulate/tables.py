"""A program as flat lists of numbers: what the event loop runs on.

Instructions, meetings, flows and resources are known by position. Everything
that an instruction comes after is one counter, so that the loop only counts
down; equal flows of many meetings are one *kind* of flow.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holmes.cost.model import CostModel
from holmes.cost.network import Flow, Traffic
from holmes.cost.software import waits_for_transfers
from holmes.plan.plan import Plan
from holmes.schedule.instruction import COMPUTE_OPS, Instruction, Op
from holmes.schedule.lower import Program
from holmes.simulate.meetings import meetings_of, program_ranks

NOT_COMPUTE = -1.0


@dataclass
class FlowKinds:
    """Per kind of flow: bytes, the resources it crosses, its weight and cap; and its rate
    when nothing else is on its way."""

    bytes: list[float] = field(default_factory=list)
    path: list[tuple[int, ...]] = field(default_factory=list)
    weight: list[int] = field(default_factory=list)
    cap: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)


@dataclass
class Tables:
    """The step.

    Attributes:
        instructions: every instruction; its position is its number below.
        rank: the logical rank of each.
        missing: what each still comes after, counted.
        after: who is counted down when it completes.
        seconds: of a computation; :data:`NOT_COMPUTE` for all others.
        joins: the meetings it takes part in.
        latency, members, needed: of each meeting; ``flows`` are kinds of flow.
        resources: names; ``capacity`` is in bytes per second.
        drag: seconds of computation per byte that its rank exchanges meanwhile.
    """

    instructions: list[Instruction] = field(default_factory=list)
    rank: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    after: list[list[int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    joins: list[list[int]] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    members: list[tuple[int, ...]] = field(default_factory=list)
    needed: list[int] = field(default_factory=list)
    flows: list[tuple[int, ...]] = field(default_factory=list)
    kinds: FlowKinds = field(default_factory=FlowKinds)
    resources: list[str] = field(default_factory=list)
    capacity: list[float] = field(default_factory=list)
    drag: float = 0.0


def tables_of(plan: Plan, cost: CostModel, program: Program) -> Tables:
    """Lay a plan's program out; costs are asked for once per distinct operation.

    Raises:
        DataError: the plan lacks a group that an instruction names.
    """
    tables = Tables(drag=cost.calibration.drag_seconds_per_byte)
    position: dict[int, int] = {}
    for rank, instructions in zip(program_ranks(plan), program.ranks, strict=True):
        _add_rank(tables, position, rank, instructions)
        _add_seconds(tables, plan, cost, rank, instructions)
        if waits_for_transfers(plan, cost.calibration):
            _receive_late(tables, position, instructions)
    _add_meetings(tables, position, plan, cost, program)
    return tables


def _add_rank(
    tables: Tables, position: dict[int, int], rank: int, instructions: tuple[Instruction, ...]
) -> None:
    """Waits, the main thread and the lanes, as in :mod:`holmes.events.order`."""
    computed = -1
    on_lane: dict[str, int] = {}
    after, missing = tables.after, tables.missing
    for number, ins in enumerate(instructions, start=len(tables.instructions)):
        position[ins.id] = number
        after.append([])
        count = len(ins.waits)
        for wait in ins.waits:
            after[position[wait]].append(number)
        if computed >= 0:
            after[computed].append(number)
            count += 1
        if ins.op in COMPUTE_OPS:
            computed = number
        else:
            previous = on_lane.get(ins.lane, -1)
            if previous >= 0:
                after[previous].append(number)
                count += 1
            on_lane[ins.lane] = number
        missing.append(count)
    tables.instructions += instructions
    tables.rank += [rank] * len(instructions)
    tables.joins += [[] for _ in instructions]


def _receive_late(
    tables: Tables, position: dict[int, int], instructions: tuple[Instruction, ...]
) -> None:
    """A transfer starts when the computation before the one that needs it has ended."""
    before = -1
    for ins in instructions:
        if ins.op in COMPUTE_OPS:
            for wait in ins.waits:
                if before >= 0 and tables.instructions[position[wait]].op is Op.RECEIVE:
                    tables.after[before].append(position[wait])
                    tables.missing[position[wait]] += 1
            before = position[ins.id]


def _add_seconds(
    tables: Tables, plan: Plan, cost: CostModel, rank: int, instructions: tuple[Instruction, ...]
) -> None:
    known: dict[tuple[str, int, tuple[int, int]], float] = {}
    for ins in instructions:
        if ins.op not in COMPUTE_OPS:
            tables.seconds.append(NOT_COMPUTE)
            continue
        key = (ins.op, ins.stage, ins.blocks)
        if key not in known:
            known[key] = cost.compute_seconds(plan, rank, ins)
        tables.seconds.append(known[key])


def _add_meetings(
    tables: Tables, position: dict[int, int], plan: Plan, cost: CostModel, program: Program
) -> None:
    network = cost.network(plan.rank_map)
    resource: dict[str, int] = {}
    meetings = meetings_of(plan, program, network)
    # The network remembers traffic, so equal operations share one object.
    compiled: dict[int, tuple[int, ...]] = {}
    for number, meeting in enumerate(meetings):
        traffic = meeting.traffic
        if id(traffic) not in compiled:
            compiled[id(traffic)] = _kinds(tables, resource, network.capacity, traffic)
        tables.latency.append(traffic.latency)
        tables.members.append(tuple(position[id_] for id_ in meeting.members))
        tables.needed.append(meeting.needed)
        tables.flows.append(compiled[id(traffic)])
        for member in tables.members[-1]:
            tables.joins[member].append(number)


def _kinds(
    tables: Tables, resource: dict[str, int], capacity: dict[str, float], traffic: Traffic
) -> tuple[int, ...]:
    return tuple(
        _kind(tables, resource, capacity, flow) for flow in traffic.flows if flow.bytes > 0
    )


def _kind(tables: Tables, resource: dict[str, int], capacity: dict[str, float], flow: Flow) -> int:
    kinds = tables.kinds
    for name in flow.resources:
        if name not in resource:
            resource[name] = len(tables.resources)
            tables.resources.append(name)
            tables.capacity.append(capacity[name])
    kinds.bytes.append(flow.bytes)
    kinds.path.append(tuple(resource[name] for name in flow.resources))
    kinds.weight.append(flow.weight)
    kinds.cap.append(flow.cap)
    kinds.alone.append(min([flow.cap, *(capacity[name] for name in flow.resources)]))
    return len(kinds.bytes) - 1
