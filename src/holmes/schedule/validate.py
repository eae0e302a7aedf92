"""Prove that instruction lists are sound before anything runs.

The proof is by execution under the strictest semantics the runtime may show: a
receive is posted and goes on, every other communication blocks its rank until
its partners have reached theirs. A program that finishes under these rules
finishes under any weaker ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from holmes.errors import HolmesError
from holmes.schedule.instruction import (
    ACCUMULATING_OPS,
    COLLECTIVE_OPS,
    COMPUTE_OPS,
    UPWARD_OPS,
    Instruction,
    Op,
    Schedule,
)
from holmes.schedule.lower import Program

Sent = tuple[int, int | None, int]
"""Cut, micro-batch and bytes of a transfer."""


class ScheduleError(HolmesError):
    """An instruction list that must not run; a bug in a schedule generator."""


def validate(program: Program, schedule: Schedule | None = None) -> None:
    """Check a program: pairing, deadlock, one writer, group order, and with its
    schedule the actions and the activation bound.

    Raises:
        ScheduleError: naming the rank and the instruction that breaks the rule.
    """
    _check_ids_and_waits(program)
    _check_one_writer(program)
    _check_pairs(program)
    _check_group_order(program)
    _check_weights_are_there(program)
    if schedule is not None:
        _check_actions(schedule)
        _check_in_flight(program, schedule)
    _check_no_deadlock(program)


def _check_ids_and_waits(program: Program) -> None:
    seen: set[int] = set()
    for rank, instructions in enumerate(program.ranks):
        before: set[int] = set()
        for ins in instructions:
            if ins.id in seen:
                raise ScheduleError(f"instruction id {ins.id} is used twice", where=f"rank {rank}")
            missing = [wait for wait in ins.waits if wait not in before]
            if missing:
                raise ScheduleError(
                    f"{ins.op} {ins.id} waits for {missing}, which do not come before it",
                    where=f"rank {rank}",
                )
            before.add(ins.id)
            seen.add(ins.id)


def _check_one_writer(program: Program) -> None:
    for rank, instructions in enumerate(program.ranks):
        writers = Counter(
            ins.buffer for ins in instructions if ins.op is not Op.SEND and ins.buffer
        )
        twice = [name for name, count in writers.items() if count > 1]
        if twice:
            raise ScheduleError(f"buffer {twice[0]!r} has several writers", where=f"rank {rank}")


def _channel(ins: Instruction, rank: int) -> tuple[str, int, int]:
    sender, receiver = (rank, ins.partner) if ins.op is Op.SEND else (ins.partner, rank)
    return ins.lane, sender, receiver


def _check_pairs(program: Program) -> None:
    sends: dict[tuple[str, int, int], list[Sent]] = defaultdict(list)
    receives: dict[tuple[str, int, int], list[Sent]] = defaultdict(list)
    for rank, instructions in enumerate(program.ranks):
        for ins in instructions:
            if ins.op in (Op.SEND, Op.RECEIVE):
                book = sends if ins.op is Op.SEND else receives
                book[_channel(ins, rank)].append((ins.cut, ins.microbatch, ins.bytes))
    for channel in sorted(set(sends) | set(receives)):
        if sends[channel] != receives[channel]:
            lane, sender, receiver = channel
            raise ScheduleError(
                f"sends and receives from rank {sender} to rank {receiver} do not match",
                where=lane,
                why=f"sent {sends[channel][:4]}..., expected {receives[channel][:4]}...",
            )


def _check_group_order(program: Program) -> None:
    orders: dict[str, dict[int, list[tuple[Op, str, int]]]] = defaultdict(lambda: defaultdict(list))
    for rank, instructions in enumerate(program.ranks):
        for ins in instructions:
            if ins.op in COLLECTIVE_OPS and ins.group is not None:
                # A tied weight sits in different buckets on its two stages: compare sizes only.
                orders[ins.group][rank].append((ins.op, ins.buffer.split(".")[0], ins.bytes))
    for group, by_rank in orders.items():
        first_rank, first = next(iter(by_rank.items()))
        for rank, order in by_rank.items():
            if order != first:
                raise ScheduleError(
                    f"members of group {group} issue its operations in different order",
                    where=f"ranks {first_rank} and {rank}",
                )


def _check_weights_are_there(program: Program) -> None:
    """What a computation holds was gathered for it or the one before, and every gather is used."""
    for rank, instructions in enumerate(program.ranks):
        gathers = {ins.id: ins for ins in instructions if ins.buffer.startswith("weights.")}
        sharded = {_bucket_of(ins) for ins in gathers.values()}
        whole: set[int] = set()
        for ins in instructions:
            if ins.op not in COMPUTE_OPS:
                continue
            arrived = {_bucket_of(gathers[wait]) for wait in ins.waits if wait in gathers}
            missing = sharded & set(ins.holds) - whole - arrived
            if missing or whole & arrived or not set(ins.frees) <= set(ins.holds):
                raise ScheduleError(
                    f"{ins.op} {ins.id} holds buckets {ins.holds}: {sorted(missing)} are not "
                    f"gathered, {sorted(whole & arrived)} twice, {ins.frees} go",
                    where=f"rank {rank}",
                )
            whole = (whole | arrived) - set(ins.frees)
        if whole:
            raise ScheduleError(f"buckets {sorted(whole)} stay whole", where=f"rank {rank}")


def _bucket_of(ins: Instruction) -> int:
    return int(ins.buffer.rpartition(".")[2])


def _check_actions(schedule: Schedule) -> None:
    """Each stage runs each micro-batch forward, then backward, once, in one order on all."""
    everything = set(range(schedule.microbatches))
    order_of: dict[int, list[int]] = {}
    for rank, actions in enumerate(schedule.actions):
        done: dict[Op, set[tuple[int, int]]] = defaultdict(set)
        for action in actions:
            key = (action.stage, action.microbatch)
            needs = {Op.BACKWARD: Op.FORWARD, Op.INPUT_GRADIENT: Op.FORWARD}.get(
                action.op, Op.INPUT_GRADIENT
            )
            if action.stage % schedule.stages != rank or key in done[action.op]:
                raise ScheduleError(
                    f"{action} is not its own, or a second one", where=f"rank {rank}"
                )
            if action.op is not Op.FORWARD and key not in done[needs]:
                raise ScheduleError(f"{action} comes before its {needs}", where=f"rank {rank}")
            done[action.op].add(key)
            if action.op in ACCUMULATING_OPS:
                order_of.setdefault(action.stage, []).append(action.microbatch)
    for stage in range(schedule.stages * schedule.virtual_stages):
        order = order_of.get(stage, [])
        if set(order) != everything or tuple(order) != schedule.accumulation_order:
            raise ScheduleError(
                f"stage {stage} adds up gradients of micro-batches {order}, "
                f"stage 0 {list(schedule.accumulation_order)}",
            )


def _check_in_flight(program: Program, schedule: Schedule) -> None:
    for rank, instructions in enumerate(program.ranks):
        held: dict[int, set[int | None]] = defaultdict(set)
        first = {
            stage: min(ins.blocks[0] for ins in instructions if ins.stage == stage)
            for stage in {ins.stage for ins in instructions}
        }
        for ins in instructions:
            mine = held[ins.stage]
            if ins.op is Op.FORWARD:
                mine.add(ins.microbatch)
                bound = schedule.in_flight[ins.stage]
                if len(mine) > bound:
                    raise ScheduleError(
                        f"stage {ins.stage} holds {len(mine)} micro-batches, "
                        f"more than its bound {bound}",
                        where=f"rank {rank}, instruction {ins.id}",
                    )
            elif ins.op in ACCUMULATING_OPS | UPWARD_OPS and ins.microbatch not in mine:
                raise ScheduleError(
                    f"{ins.op} of micro-batch {ins.microbatch} before its forward",
                    where=f"rank {rank}, instruction {ins.id}",
                )
            if ins.op in ACCUMULATING_OPS and ins.blocks[0] == first[ins.stage]:
                mine.discard(ins.microbatch)


def _check_no_deadlock(program: Program) -> None:
    """Execute with rendezvous semantics; raise when nobody can move."""
    position = [0] * len(program.ranks)
    posted: dict[tuple[str, int, int], int] = defaultdict(int)
    sent: dict[tuple[str, int, int], int] = defaultdict(int)
    members = _members(program)
    awaited = [_awaited(instructions, rank) for rank, instructions in enumerate(program.ranks)]
    moved = True
    while moved:
        moved = False
        for rank, instructions in enumerate(program.ranks):
            while position[rank] < len(instructions):
                ins = instructions[position[rank]]
                if ins.op in COMPUTE_OPS:
                    if any(sent[c] < count for c, count in awaited[rank].get(ins.id, ())):
                        break
                elif ins.op is Op.RECEIVE:
                    posted[_channel(ins, rank)] += 1
                elif ins.op is Op.SEND:
                    channel = _channel(ins, rank)
                    if posted[channel] <= sent[channel]:
                        break
                    sent[channel] += 1
                elif not _advance_collective(program, position, members, rank, ins):
                    break
                else:
                    moved = True
                    continue
                position[rank] += 1
                moved = True
    stuck = [rank for rank, pos in enumerate(position) if pos < len(program.ranks[rank])]
    if stuck:
        rank = stuck[0]
        ins = program.ranks[rank][position[rank]]
        raise ScheduleError(
            f"deadlock: ranks {stuck} wait for each other",
            where=f"rank {rank} at {ins.op} {ins.buffer or ins.lane} (instruction {ins.id})",
        )


def _members(program: Program) -> dict[str, set[int]]:
    members: dict[str, set[int]] = defaultdict(set)
    for rank, instructions in enumerate(program.ranks):
        for ins in instructions:
            if ins.op in COLLECTIVE_OPS and ins.group is not None:
                members[ins.group].add(rank)
    return members


def _awaited(
    instructions: tuple[Instruction, ...], rank: int
) -> dict[int, list[tuple[tuple[str, int, int], int]]]:
    """Per compute instruction: how many sends on which channel must have happened."""
    count: dict[tuple[str, int, int], int] = defaultdict(int)
    number: dict[int, tuple[tuple[str, int, int], int]] = {}
    found: dict[int, list[tuple[tuple[str, int, int], int]]] = {}
    for ins in instructions:
        if ins.op is Op.RECEIVE:
            channel = _channel(ins, rank)
            count[channel] += 1
            number[ins.id] = (channel, count[channel])
        elif ins.op in COMPUTE_OPS:
            found[ins.id] = [number[wait] for wait in ins.waits if wait in number]
    return found


def _advance_collective(
    program: Program,
    position: list[int],
    members: dict[str, set[int]],
    rank: int,
    ins: Instruction,
) -> bool:
    """Move all members of a collective past it when all have reached it."""
    assert ins.group is not None
    for member in members[ins.group]:
        pos = position[member]
        if pos >= len(program.ranks[member]):
            return False
        other = program.ranks[member][pos]
        if other.group != ins.group or other.op is not ins.op or other.op is Op.RECEIVE:
            return False
    for member in members[ins.group]:
        position[member] += 1
    return True
