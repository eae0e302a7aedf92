"""What every instruction comes after: the graph that the simulator runs and a comparison walks.

Each rank has a main thread that walks its list: a computation runs there, all
else is handed to its lane and the walk goes on. So an instruction comes after
its waits, after the computation listed before it, and, on a lane, after the
instruction before it on that lane. Transfers and collectives also need their
partners: the *meetings*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holmes.schedule.instruction import COLLECTIVE_OPS, COMPUTE_OPS, Instruction, Op
from holmes.schedule.lower import Program


@dataclass(frozen=True)
class Match:
    """One transfer or collective and the ids of the instructions that take part.

    ``ends`` is (source rank, target rank, bytes) of a transfer, None for a
    collective, whose ``ranks`` are all members of its group. ``needed`` members
    have to be there before it starts.
    """

    first: Instruction
    members: tuple[int, ...]
    needed: int
    ranks: tuple[int, ...]
    ends: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Order:
    """The graph of one step; instructions are known by their id.

    Attributes:
        instructions: every instruction.
        rank_of: the logical rank that runs it.
        before: what has to be complete on the same rank before it may start.
        partners: ids that it meets, itself included; empty for a computation.
    """

    instructions: dict[int, Instruction]
    rank_of: dict[int, int]
    before: dict[int, tuple[int, ...]]
    partners: dict[int, tuple[int, ...]]


def order_of(program: Program, ranks: Sequence[int]) -> Order:
    """The graph of a program whose lists belong to ``ranks``, in that order."""
    by_id: dict[int, Instruction] = {}
    rank_of: dict[int, int] = {}
    before: dict[int, tuple[int, ...]] = {}
    for rank, instructions in zip(ranks, program.ranks, strict=True):
        computed: tuple[int, ...] = ()
        on_lane: dict[str, tuple[int, ...]] = {}
        for ins in instructions:
            by_id[ins.id] = ins
            rank_of[ins.id] = rank
            if ins.op in COMPUTE_OPS:
                before[ins.id] = ins.waits + computed
                computed = (ins.id,)
            else:
                before[ins.id] = ins.waits + computed + on_lane.get(ins.lane, ())
                on_lane[ins.lane] = (ins.id,)
    partners: dict[int, tuple[int, ...]] = {}
    for match in matches(program, ranks):
        for member in match.members:
            partners[member] = partners.get(member, ()) + match.members
    return Order(by_id, rank_of, before, partners)


def matches(program: Program, ranks: Sequence[int]) -> list[Match]:
    """Every transfer and collective, in order of first mention.

    The k-th operation of a member on a group, and the k-th transfer of one size
    from one rank to another on a lane, meet their counterparts by number.
    """
    members_of = _members(program, ranks)
    found: dict[tuple[object, ...], tuple[Instruction, list[int]]] = {}
    for rank, instructions in zip(ranks, program.ranks, strict=True):
        count: dict[tuple[object, ...], int] = {}
        for ins in instructions:
            if ins.op in COMPUTE_OPS:
                continue
            channel = _channel(ins, rank)
            number = count.get(channel, 0)
            count[channel] = number + 1
            found.setdefault((number, *channel), (ins, []))[1].append(ins.id)
    return [_match(key, ins, ids, members_of) for key, (ins, ids) in found.items()]


def _match(
    key: tuple[object, ...],
    ins: Instruction,
    ids: list[int],
    members_of: dict[str, tuple[int, ...]],
) -> Match:
    if ins.op in COLLECTIVE_OPS:
        ranks = members_of[ins.group or ""]
        return Match(ins, tuple(ids), len(ranks), ranks)
    _, _, source, target, size = key
    assert isinstance(source, int) and isinstance(target, int) and isinstance(size, int)
    return Match(ins, tuple(ids), 2, (source, target), (source, target, size))


def _channel(ins: Instruction, rank: int) -> tuple[object, ...]:
    if ins.op is Op.SEND:
        return (ins.lane, rank, ins.partner, ins.bytes)
    if ins.op is Op.RECEIVE:
        return (ins.lane, ins.partner, rank, ins.bytes)
    return (ins.group,)


def _members(program: Program, ranks: Sequence[int]) -> dict[str, tuple[int, ...]]:
    members: dict[str, dict[int, None]] = {}
    for rank, instructions in zip(ranks, program.ranks, strict=True):
        for ins in instructions:
            if ins.op in COLLECTIVE_OPS and ins.group is not None:
                members.setdefault(ins.group, {})[rank] = None
    return {group: tuple(found) for group, found in members.items()}
