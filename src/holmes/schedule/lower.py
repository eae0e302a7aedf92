"""From a schedule and stage shapes to one instruction list per logical rank.

The rules, once, for simulator and runtime:

* A receive is listed some actions before the action that needs it (usually two, and
  two more per extra warm-up forward), so that the transfer starts while the stage
  still computes and a sender never waits for a receiver that waits for it.
* With overlap, the parameters of each bucket are gathered at the head of the
  step and the first forward of a stage is split at bucket borders, each part
  waiting for its own gather; the last backward (or weight gradient, where a
  schedule computes it apart) is split the same way and each part is followed by
  the reduce-scatter of its bucket.
* Without overlap, all reductions follow the last backward, and the gathers
  follow the optimiser step.
* Where weights or gradients are sharded too, buckets are gathered and reduced for every
  micro-batch (:mod:`holmes.schedule.exchange`).
* The squared norms of the gradients (one fp64 per parameter tensor) are summed
  over all ranks before the step, so that clipping by global norm is exact.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from holmes.schedule.exchange import Exchanges
from holmes.schedule.instruction import (
    ACCUMULATING_OPS,
    UPWARD_OPS,
    Action,
    Exchange,
    Instruction,
    Op,
    Part,
    Schedule,
    StageShape,
    plain_exchange,
)
from holmes.schedule.portions import Portion, portions_of

WORLD_GROUP = "world"


@dataclass(frozen=True)
class Program:
    """The instruction lists of one step, by logical rank."""

    ranks: tuple[tuple[Instruction, ...], ...]

    @property
    def digest(self) -> str:
        """SHA-256 over all instructions; a Plan carries it, the runtime checks it."""
        hasher = hashlib.sha256()
        for instructions in self.ranks:
            for ins in instructions:
                hasher.update(repr(ins).encode())
        return hasher.hexdigest()[:16]


@dataclass
class _Rank:
    """Builds the list of one rank."""

    next_id: int
    position: int
    shapes: dict[int, StageShape]
    world: int
    norm_bytes: int
    gradient_bytes: int
    exchange_of: dict[int, Exchange | None]
    overlap: bool
    out: list[Instruction] = field(default_factory=list)
    received: dict[Action, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.exchanges = Exchanges(self.add, self.shapes, self.exchange_of, overlap=self.overlap)

    def add(self, op: Op, lane: str, stage: int, blocks: tuple[int, int], **rest: object) -> int:
        """Append an instruction and return its id."""
        ins = Instruction(self.next_id, op, lane, stage, blocks=blocks, **rest)  # type: ignore[arg-type]
        self.out.append(ins)
        self.next_id += 1
        return ins.id


def lower(
    schedule: Schedule,
    shapes: tuple[StageShape, ...],
    *,
    overlap: bool,
    norm_tensors: int,
    gradient_bytes: int = 4,
    parameter_bytes: int = 4,
) -> Program:
    """Expand a schedule into the instruction list of every logical rank.

    Args:
        schedule: actions per pipeline rank; stage ``s`` belongs to pipeline rank
            ``s % schedule.stages``.
        shapes: one shape per virtual stage, in stage order.
        overlap: reduce under backward and gather under the first forward.
        norm_tensors: parameter tensors of the model, the length of the norm vector.
        gradient_bytes: bytes per gradient element on the wire.
        parameter_bytes: bytes per gathered parameter element.
    """
    by_rank: dict[int, tuple[Instruction, ...]] = {}
    world = sum(len(shape.ranks) for shape in shapes[: schedule.stages])
    next_id = 0
    for pipeline_rank, actions in enumerate(schedule.actions):
        mine = {s.stage: s for s in shapes if s.stage % schedule.stages == pipeline_rank}
        for position, rank in enumerate(next(iter(mine.values())).ranks):
            widths = gradient_bytes, parameter_bytes
            exchange_of = {s: _own_exchange(shape, position, *widths) for s, shape in mine.items()}
            builder = _Rank(
                next_id,
                position,
                mine,
                world,
                norm_tensors * 8,
                gradient_bytes,
                exchange_of,
                overlap,
            )
            _lower_rank(builder, actions, len(shapes), overlap, schedule.receive_ahead)
            by_rank[rank] = tuple(builder.out)
            next_id = builder.next_id
    return Program(tuple(by_rank[rank] for rank in sorted(by_rank)))


def _own_exchange(
    shape: StageShape, position: int, gradient_bytes: int, parameter_bytes: int
) -> Exchange | None:
    """What one rank exchanges of a stage; None where it has no replicas."""
    if shape.exchanges:
        return shape.exchanges[position]
    group = shape.data_groups[position] if shape.data_groups else shape.data_group
    return None if group is None else plain_exchange(group, gradient_bytes, parameter_bytes)


def _lower_rank(
    rank: _Rank, actions: tuple[Action, ...], stages: int, overlap: bool, receive_ahead: int
) -> None:
    exchanges = rank.exchanges
    if overlap:
        exchanges.refresh(())
    cut = portions_of(actions, rank.shapes, rank.exchange_of, overlap=overlap)
    following = iter([portion for portions in cut for portion in portions][1:])
    last = {a.stage: i for i, a in enumerate(actions) if a.op in ACCUMULATING_OPS}
    posted = 0
    for i, (action, portions) in enumerate(zip(actions, cut, strict=True)):
        for ahead in actions[posted : i + 1 + receive_ahead]:
            _receive(rank, ahead, stages)
        posted = max(posted, i + 1 + receive_ahead)
        done = -1
        for portion in portions:
            exchanges.gather(portion)
            after = next(following, None)
            if overlap and after is not None:
                exchanges.gather(after)
            done = _compute(rank, portion)
            exchanges.reduce(portion, done, last=last[action.stage] == i)
        _send_on(rank, action, done, stages)
    _finish(rank, overlap)


def _receive(rank: _Rank, action: Action, stages: int) -> None:
    """List the receives that feed an action, if it is fed by another stage."""
    shape = rank.shapes[action.stage]
    if action.op is Op.FORWARD and action.stage > 0:
        parts, direction, what = shape.inputs[rank.position], "down", "input"
    elif action.op in UPWARD_OPS and action.stage < stages - 1:
        parts, direction, what = shape.outputs[rank.position], "up", "output_gradient"
    else:
        return
    buffer = f"{what}.s{action.stage}.m{action.microbatch}"
    rank.received[action] = tuple(
        rank.add(
            Op.RECEIVE,
            f"comm:{part.group}.{direction}",
            action.stage,
            shape.blocks,
            microbatch=action.microbatch,
            peer=part.slices,
            group=part.group,
            buffer=buffer if len(parts) == 1 else f"{buffer}.r{part.slices[0].rank}",
            bytes=part.bytes_,
        )
        for part in parts
    )


def _send(
    rank: _Rank, action: Action, parts: tuple[Part, ...], direction: str, buffer: str, done: int
) -> None:
    """List the sends of what an action made for another stage."""
    for part in parts:
        rank.add(
            Op.SEND,
            f"comm:{part.group}.{direction}",
            action.stage,
            rank.shapes[action.stage].blocks,
            microbatch=action.microbatch,
            peer=part.slices,
            group=part.group,
            buffer=buffer,
            bytes=part.bytes_,
            waits=(done,),
        )


def _compute(rank: _Rank, portion: Portion) -> int:
    """A portion of an action; its first waits for what another stage sends. Returns its id."""
    action, blocks = portion.action, portion.blocks
    what, border = {
        Op.FORWARD: ("output", blocks[1]),
        Op.WEIGHT_GRADIENT: ("weight_gradient", blocks[0]),
    }.get(action.op, ("input_gradient", blocks[0]))
    return rank.add(
        action.op,
        "compute",
        action.stage,
        blocks,
        microbatch=action.microbatch,
        buffer=f"{what}.s{action.stage}.m{action.microbatch}.b{border}",
        waits=rank.received.pop(action, ()) + rank.exchanges.waits(portion),
        holds=portion.holds,
        frees=portion.frees,
    )


def _send_on(rank: _Rank, action: Action, done: int, stages: int) -> None:
    """List the sends of what an action made for another stage, if it did."""
    shape = rank.shapes[action.stage]
    if action.op is Op.FORWARD and action.stage < stages - 1:
        made = f"output.s{shape.stage}.m{action.microbatch}.b{shape.blocks[1]}"
        _send(rank, action, shape.outputs[rank.position], "down", made, done)
    elif action.op in UPWARD_OPS and action.stage > 0:
        made = f"input_gradient.s{shape.stage}.m{action.microbatch}.b{shape.blocks[0]}"
        _send(rank, action, shape.inputs[rank.position], "up", made, done)


def _finish(rank: _Rank, overlap: bool) -> None:
    """What follows the last backward: leftover reductions, norm, step, gathers."""
    last = rank.out[-1].id
    for ins in reversed(rank.out):
        if ins.op in ACCUMULATING_OPS:
            last = ins.id
            break
    for shape in rank.shapes.values():
        for bucket in reversed(shape.buckets):
            summed: tuple[int, ...] = (last,)
            if bucket.tied:
                name = shape.tied_group[rank.position]
                summed = (
                    rank.add(
                        Op.ALL_REDUCE,
                        f"comm:{name}",
                        shape.stage,
                        bucket.blocks,
                        microbatch=None,
                        group=name,
                        buffer=f"tied.{bucket.index}",
                        bytes=(bucket.tied_elements or bucket.elements) * rank.gradient_bytes,
                        waits=(last,),
                    ),
                )
                if rank.exchange_of[shape.stage] is None:
                    rank.exchanges.reduced += summed
            rank.exchanges.finish(shape.stage, bucket, summed)
    everything = next(iter(rank.shapes.values()))
    stage, blocks = everything.stage, everything.blocks
    ready = (*rank.exchanges.reduced, last)
    if rank.world > 1:
        ready = (
            rank.add(
                Op.ALL_REDUCE,
                f"comm:{WORLD_GROUP}",
                stage,
                blocks,
                microbatch=None,
                group=WORLD_GROUP,
                buffer="norms",
                bytes=rank.norm_bytes,
                waits=ready,
            ),
        )
    stepped = rank.add(
        Op.STEP, "compute", stage, blocks, microbatch=None, buffer="shard", waits=ready
    )
    if not overlap:
        rank.exchanges.refresh((stepped,))
