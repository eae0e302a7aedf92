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
    SEND = "send"
    RECEIVE = "receive"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_GATHER = "all_gather"
    ALL_REDUCE = "all_reduce"
    STEP = "step"


COMPUTE_OPS = frozenset({Op.FORWARD, Op.BACKWARD, Op.STEP})
COLLECTIVE_OPS = frozenset({Op.REDUCE_SCATTER, Op.ALL_GATHER, Op.ALL_REDUCE})


@dataclass(frozen=True)
class Action:
    """Forward or backward of one micro-batch on one (virtual) stage."""

    op: Literal[Op.FORWARD, Op.BACKWARD]
    stage: int
    microbatch: int


@dataclass(frozen=True)
class Schedule:
    """Per pipeline rank, the order of its actions.

    ``in_flight[s]`` is the largest number of micro-batches that stage ``s`` holds
    between forward and backward: the activation bound that the validator proves
    and the memory model charges.
    """

    name: str
    stages: int
    microbatches: int
    actions: tuple[tuple[Action, ...], ...]
    in_flight: tuple[int, ...]
    extra_warmup: tuple[int, ...] = ()


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
        peer: for transfers, who holds the other end of which interval.
        group: for collectives, the name of the group in the Plan.
        buffer: what it writes (compute, receive, collective) or reads (send).
        bytes: payload of the whole transfer or collective; 0 for compute.
        waits: ids of instructions of the same rank that must be complete first.
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


@dataclass(frozen=True)
class Bucket:
    """A range of blocks whose gradients are reduced together.

    ``elements`` counts parameters, ``tied`` marks the bucket of a shared weight,
    which is first summed with its twin on another stage; ``tied_elements`` is
    the size of that weight, where the block holds other parameters too.
    """

    index: int
    blocks: tuple[int, int]
    elements: int
    tied: bool = False
    tied_elements: int = 0


@dataclass(frozen=True)
class StageShape:
    """One virtual stage as the schedule sees it.

    ``input_bytes`` and ``output_bytes`` are boundary activations of one
    micro-batch (zero at the ends of the chain). ``buckets`` are in model order.
    ``ranks`` are the logical ranks of the stage in rank order: data-parallel
    ranks, each with its tensor-parallel neighbours. With tensor ranks,
    ``data_groups`` names the data group of each entry of ``ranks``.
    """

    stage: int
    blocks: tuple[int, int]
    ranks: tuple[int, ...]
    buckets: tuple[Bucket, ...]
    input_bytes: int
    output_bytes: int
    data_group: str | None
    input_groups: tuple[str, ...] = ()
    output_groups: tuple[str, ...] = ()
    tied_group: tuple[str, ...] = ()
    data_groups: tuple[str, ...] = ()
