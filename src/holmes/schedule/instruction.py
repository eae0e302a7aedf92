"""The instruction, the one form that simulator and runtime both interpret.

A *schedule* is a per-pipeline-rank list of actions (forward or backward of one
micro-batch on one stage). :func:`holmes.schedule.lower.lower` expands it, with
the shapes of the stages, into one instruction list per logical rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Op(StrEnum):
    """What an instruction does."""

    FORWARD = "forward"
    BACKWARD = "backward"
    INPUT_GRADIENT = "input_gradient"
    WEIGHT_GRADIENT = "weight_gradient"
    SEND = "send"
    RECEIVE = "receive"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_GATHER = "all_gather"
    ALL_REDUCE = "all_reduce"
    STEP = "step"


UPWARD_OPS = frozenset({Op.BACKWARD, Op.INPUT_GRADIENT})
"""They take the gradient of a stage's output and give that of its input."""
ACCUMULATING_OPS = frozenset({Op.BACKWARD, Op.WEIGHT_GRADIENT})
"""They add to the gradients of parameters, and free the micro-batch's activations."""
COMPUTE_OPS = frozenset({Op.FORWARD, Op.BACKWARD, Op.INPUT_GRADIENT, Op.WEIGHT_GRADIENT, Op.STEP})
COLLECTIVE_OPS = frozenset({Op.REDUCE_SCATTER, Op.ALL_GATHER, Op.ALL_REDUCE})


@dataclass(frozen=True)
class Action:
    """Forward or backward of one micro-batch on one (virtual) stage.

    A backward is either one action, or the gradient of the input and, later, those
    of the weights.
    """

    op: Literal[Op.FORWARD, Op.BACKWARD, Op.INPUT_GRADIENT, Op.WEIGHT_GRADIENT]
    stage: int
    microbatch: int


@dataclass(frozen=True)
class Schedule:
    """Per pipeline rank, the order of its actions.

    Attributes:
        stages: pipeline ranks p. Virtual stage ``s`` of ``p * virtual_stages`` belongs
            to pipeline rank ``s % p``.
        actions: per pipeline rank.
        in_flight: per virtual stage, the largest number of micro-batches that it holds
            between forward and the last part of backward: the bound that the validator
            proves and the memory model charges.
        extra_warmup: extra forwards in flight, per cut between pipeline ranks.
        virtual_stages: stages per pipeline rank, v.
        ahead: actions by which a receive is listed before the action that needs it;
            None for the usual two, and two more per extra warm-up forward.
    """

    name: str
    stages: int
    microbatches: int
    actions: tuple[tuple[Action, ...], ...]
    in_flight: tuple[int, ...]
    extra_warmup: tuple[int, ...] = ()
    virtual_stages: int = 1
    ahead: int | None = None

    @property
    def receive_ahead(self) -> int:
        """Actions by which a receive is listed before the action that needs it."""
        if self.ahead is not None:
            return self.ahead
        return 2 * (1 + max(self.extra_warmup, default=0))

    @property
    def accumulation_order(self) -> tuple[int, ...]:
        """Micro-batches in the order in which they add to gradients, the same on all stages."""
        return tuple(
            action.microbatch
            for action in self.actions[0]
            if action.op in ACCUMULATING_OPS and action.stage == 0
        )


@dataclass(frozen=True)
class PeerSlice:
    """A part of a transfer: the interval of the flat buffer that goes to or comes from a rank."""

    rank: int
    start: int
    stop: int


@dataclass(frozen=True)
class Instruction:
    """One entry of a rank's list.

    Attributes:
        id: unique over all ranks of the step; spans carry it.
        op: what to do.
        lane: ``compute``, ``copy`` or ``comm:<group>`` (``comm:<group>.down`` and
            ``.up`` for the two directions of a pipeline cut). One lane runs its
            instructions one after the other, in list order.
        stage: the virtual stage it belongs to.
        microbatch: the micro-batch, or None for per-step work.
        blocks: half-open range of blocks it covers.
        peer: for transfers, who holds the other end of which byte intervals of this rank's
            boundary buffer; all with one rank.
        group: for collectives, the name of the group in the Plan.
        buffer: what it writes (compute, receive, collective) or reads (send).
        bytes: payload of the whole transfer or collective; 0 for compute.
        waits: ids of instructions of the same rank that must be complete first.
        holds: of a computation, the buckets with sharded weights or gradients that it works on.
        frees: those of which the gathered weights go when it ends.
    """

    id: int
    op: Op
    lane: str
    stage: int
    microbatch: int | None
    blocks: tuple[int, int]
    peer: tuple[PeerSlice, ...] = ()
    group: str | None = None
    buffer: str = ""
    bytes: int = 0
    waits: tuple[int, ...] = ()
    holds: tuple[int, ...] = ()
    frees: tuple[int, ...] = ()

    @property
    def partner(self) -> int:
        """The rank at the other end of a transfer: all slices of one are with the same rank."""
        return self.peer[0].rank

    @property
    def cut(self) -> int:
        """For a transfer, the cut it crosses: the stage above it. The two ends agree."""
        receives_down = self.op is Op.RECEIVE and self.lane.endswith(".down")
        sends_up = self.op is Op.SEND and self.lane.endswith(".up")
        return self.stage - 1 if receives_down or sends_up else self.stage


@dataclass(frozen=True)
class Bucket:
    """A range of blocks whose gradients are reduced together.

    ``index`` is unique among all buckets of a rank. ``elements`` counts
    parameters, ``tied`` marks the bucket of a shared weight, which is first
    summed with its twin on another stage; ``tied_elements`` is the size of that
    weight, where the block holds other parameters too. ``borrows`` is another bucket
    of the rank that holds a weight of this one's blocks (both ends of a tie on a stage).
    ``expert_elements`` are parameters besides, of the experts that one of several expert
    ranks holds; without such ranks experts are among ``elements``.
    """

    index: int
    blocks: tuple[int, int]
    elements: int
    tied: bool = False
    tied_elements: int = 0
    borrows: int | None = None
    expert_elements: int = 0

    @property
    def held(self) -> int:
        """All parameters of the bucket on an expert rank."""
        return self.elements + self.expert_elements


@dataclass(frozen=True)
class Move:
    """A collective of every bucket: in which group, and how much of the bucket it moves.

    Attributes:
        parts: the payload is one of so many parts of the bucket.
        width: bytes per element on the wire, scales of quantised blocks included.
    """

    op: Op
    group: str
    parts: int
    width: float

    def bytes_of(self, elements: int) -> int:
        """Payload for a bucket of ``elements``."""
        return -(-int(elements * self.width) // self.parts)


@dataclass(frozen=True)
class Exchange:
    """What one rank exchanges of a bucket, and when.

    Attributes:
        gather: weights, before every use (where they are sharded).
        reduce: gradients, after every micro-batch if ``each``, else after the last.
        across: sums of the middle groups, after the last micro-batch.
        refresh: what the optimiser changed, before the next step: all that is kept of the
            weights; before it, where there are two, the part of them that the sums are of.
        experts: the same of the bucket's experts, among the ranks that hold the same ones;
            None where no expert ranks divide them.
    """

    gather: Move | None = None
    reduce: Move | None = None
    each: bool = False
    across: Move | None = None
    refresh: tuple[Move, ...] = ()
    experts: Exchange | None = None

    @property
    def parts(self) -> tuple[Exchange, ...]:
        """Itself, and that of the experts where there is one."""
        return (self,) if self.experts is None else (self, self.experts)

    def of(self, bucket: Bucket) -> tuple[tuple[Exchange, int], ...]:
        """What is exchanged of a bucket in turn, and how many elements each time."""
        if self.experts is None or not bucket.expert_elements:
            return ((self, bucket.elements),)
        return (self, bucket.elements), (self.experts, bucket.expert_elements)


def plain_exchange(group: str, gradient_bytes: int, parameter_bytes: int) -> Exchange:
    """Sharded optimiser states alone, or none: reduce once, bring all up to date once."""
    return Exchange(
        reduce=Move(Op.REDUCE_SCATTER, group, 1, gradient_bytes),
        refresh=(Move(Op.ALL_GATHER, group, 1, parameter_bytes),),
    )


@dataclass(frozen=True)
class Part:
    """What a rank has in common with one rank across a cut: the group of the two, and the
    byte intervals of this rank's boundary buffer that pass between them."""

    group: str
    slices: tuple[PeerSlice, ...]

    @property
    def bytes_(self) -> int:
        return sum(part.stop - part.start for part in self.slices)


@dataclass(frozen=True)
class StageShape:
    """One virtual stage as the schedule sees it.

    ``inputs`` and ``outputs`` are, for each entry of ``ranks``, the parts of its
    boundary activations of one micro-batch (none at the ends of the chain). ``buckets``
    are in model order. ``ranks`` are the logical ranks of the stage in rank order:
    data-parallel ranks, each with its tensor-parallel neighbours. With tensor ranks,
    ``data_groups`` names the data group of each entry of ``ranks``; ``tied_group`` likewise.
    ``exchanges`` has what each of them exchanges; empty: reduce and refresh once a step in
    its data group.
    """

    stage: int
    blocks: tuple[int, int]
    ranks: tuple[int, ...]
    buckets: tuple[Bucket, ...]
    data_group: str | None
    inputs: tuple[tuple[Part, ...], ...] = ()
    outputs: tuple[tuple[Part, ...], ...] = ()
    tied_group: tuple[str, ...] = ()
    data_groups: tuple[str, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
