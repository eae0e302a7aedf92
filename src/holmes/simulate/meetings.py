"""Meetings: the operations that need several ranks, matched by their order on a lane."""

from __future__ import annotations

from dataclasses import dataclass, field

from holmes.cost.network import Network, Traffic
from holmes.errors import DataError
from holmes.hardware.site import Fabric
from holmes.plan.plan import Plan
from holmes.schedule.instruction import COLLECTIVE_OPS, Instruction, Op
from holmes.schedule.lower import Program


@dataclass
class Meeting:
    """A transfer or a collective: it starts when ``needed`` members (instruction ids) are there."""

    traffic: Traffic
    needed: int
    members: list[int] = field(default_factory=list)
    arrived: int = 0
    flows_left: int = 0


def program_ranks(plan: Plan) -> tuple[int, ...]:
    """The logical rank of each list of the plan's program."""
    return tuple(sorted(rank for stage in plan.stages for rank in stage.ranks))


def fabric_of(plan: Plan, group: str | None) -> Fabric | None:
    """The fabric that a group's traffic takes.

    Raises:
        DataError: the plan has no such group.
    """
    found = plan.group_by_name.get(group or "")
    if found is None:
        raise DataError(
            f"the plan has no group {group!r}",
            where="groups",
            why="an instruction names it",
            next_step="plan again with `holmes plan`",
        )
    return found.transport.fabric


def meetings_of(plan: Plan, program: Program, network: Network) -> dict[int, list[Meeting]]:
    """The meetings of every communication instruction, by its id.

    The k-th operation of a member on a group, and the k-th transfer from one
    rank to another on a lane, meet their counterparts by number.
    """
    by_key: dict[tuple[object, ...], Meeting] = {}
    found: dict[int, list[Meeting]] = {}
    members = _members(plan, program)
    for rank, instructions in zip(program_ranks(plan), program.ranks, strict=True):
        count: dict[tuple[object, ...], int] = {}
        for ins in instructions:
            for channel in _channels(ins, rank):
                number = count.get(channel, 0)
                count[channel] = number + 1
                key = (*channel, number)
                if key not in by_key:
                    needed = len(members[ins.group or ""]) if ins.op in COLLECTIVE_OPS else 2
                    traffic = _traffic(plan, network, ins, channel, members)
                    by_key[key] = Meeting(traffic, needed)
                by_key[key].members.append(ins.id)
                found.setdefault(ins.id, []).append(by_key[key])
    return found


def _members(plan: Plan, program: Program) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for rank, instructions in zip(program_ranks(plan), program.ranks, strict=True):
        for ins in instructions:
            if ins.op in COLLECTIVE_OPS and ins.group is not None:
                listed = members.setdefault(ins.group, [])
                if not listed or listed[-1] != rank:
                    listed.append(rank)
    return members


def _channels(ins: Instruction, rank: int) -> list[tuple[object, ...]]:
    if ins.op in COLLECTIVE_OPS:
        return [("collective", ins.group, -1, -1)]
    if ins.op is Op.SEND:
        return [(ins.lane, p.stop - p.start, rank, p.rank) for p in ins.peer]
    if ins.op is Op.RECEIVE:
        return [(ins.lane, p.stop - p.start, p.rank, rank) for p in ins.peer]
    return []


def _traffic(
    plan: Plan,
    network: Network,
    ins: Instruction,
    channel: tuple[object, ...],
    members: dict[str, list[int]],
) -> Traffic:
    fabric = fabric_of(plan, ins.group)
    if ins.op in COLLECTIVE_OPS:
        return network.collective(ins.op, members[ins.group or ""], ins.bytes, fabric)
    _, size, source, target = channel
    assert isinstance(size, int) and isinstance(source, int) and isinstance(target, int)
    return network.transfer(source, target, size, fabric)
