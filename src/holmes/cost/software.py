"""What training software adds to a stage's computation, and what a stage's exchanges take.

Without overlap, Megatron-LM waits for each transfer between stages and all-reduces whole
gradients; with parameters sharded, every forward gathers and every backward gathers again and
reduces, under computation that they slow down; and many devices wait for the slowest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from holmes.cost.axes import gathers
from holmes.cost.calibration import BlockTime, Calibration
from holmes.cost.network import Network
from holmes.errors import DataError
from holmes.hardware.site import Fabric
from holmes.plan.plan import Plan, Stage
from holmes.plan.program import stage_shape
from holmes.schedule.instruction import Bucket, Exchange, Move, Op, StageShape

BlockRange = tuple[int, int]


@dataclass(frozen=True)
class StageExtras:
    """What is added to the computation of one stage, for each of its micro-batches.

    Attributes:
        factor: multiplies computation.
        down, up: seconds that a forward and a backward take longer for having waited for a
            transfer.
        exchanges: seconds of gather and reduction of each bucket's blocks that run under
            every computation, empty where they do not.
        slowdown: seconds of computation per second of exchange.
        overlap: whether computation goes on beside the exchanges.
    """

    factor: float = 1.0
    down: float = 0.0
    up: float = 0.0
    exchanges: Mapping[BlockRange, tuple[float, float]] = field(default_factory=dict)
    slowdown: float = 0.0
    overlap: bool = True

    def added(
        self, time: BlockTime, blocks: BlockRange, stage: BlockRange, *, listed: bool = False
    ) -> BlockTime:
        """The time of a range of blocks of a stage with all that.

        Args:
            listed: the exchanges are instructions of their own, which take their own time.
        """
        time = time.scaled(self.factor)
        gather = reduce = 0.0
        for (start, stop), (one, other) in self.exchanges.items():
            if blocks[0] <= start and stop <= blocks[1]:
                gather, reduce = gather + one, reduce + other
        moved = gather + reduce
        forward = time.forward + self.slowdown * gather
        backward = time.backward + self.slowdown * moved
        if not self.overlap:
            beside = (0.0, 0.0) if listed else (gather, moved)
            forward, backward = time.forward + beside[0], time.backward + beside[1]
        elif not listed:
            forward, backward = max(forward, gather), max(backward, moved)
        if blocks[0] == stage[0]:
            forward += self.down
        if blocks[1] == stage[1]:
            backward += self.up
        return BlockTime(forward, backward)


def stage_extras(plan: Plan, network: Network, stage: Stage) -> StageExtras:
    """What the software of the network's calibration adds to a stage.

    Raises:
        DataError: a group that the stage needs is missing from the plan.
    """
    calibration = network.calibration
    compute = calibration.compute
    factor = straggling(plan.world_size, calibration)
    shape = stage_shape(plan, stage)
    if gathers(plan.sharding)[0]:
        exchanges = {
            bucket.blocks: (
                moves_seconds(plan, network, shape, bucket, lambda e: (e.gather,)),
                moves_seconds(plan, network, shape, bucket, lambda e: (e.reduce,)),
            )
            for bucket in shape.buckets
        }
        return StageExtras(factor, 0.0, 0.0, exchanges, compute.overlap_slowdown, plan.overlap)
    fixed = compute.transfer_seconds if waits_for_transfers(plan, calibration) else 0.0
    gather = gather_seconds(plan, network, stage)
    last = stage.stage + 1 == len(plan.stages)
    down = (fixed if stage.stage > 0 else 0.0) + (0.0 if last else gather)
    up = (0.0 if last else fixed) + (gather if stage.stage > 0 else 0.0)
    return StageExtras(factor, down, up)


def gather_seconds(plan: Plan, network: Network, stage: Stage) -> float:
    """Seconds in which tensor ranks gather the tokens of a micro-batch that each then passes
    on; none where each passes its own on."""
    tp = stage.layout.tp
    if plan.scatter_gather or tp == 1:
        return 0.0
    bytes_ = plan.workload.blocks[stage.blocks[0]].output_bytes * max(plan.samples(stage))
    ranks = stage.ranks[:tp]
    fabric = fabric_of(plan, f"tensor.{ranks[0]}")
    return network.collective(Op.ALL_GATHER, ranks, bytes_, fabric).seconds


def straggling(devices: int, calibration: Calibration) -> float:
    """How much longer a step's computation takes where this many devices wait for one another."""
    return 1 + calibration.compute.straggler * math.log2(max(1, devices))


def waits_for_transfers(plan: Plan, calibration: Calibration) -> bool:
    """Whether a stage asks for a transfer only when it has nothing else to do."""
    return calibration.without_overlap == "megatron" and not plan.overlap


def gathered_over_parameters(plan: Plan, calibration: Calibration) -> float:
    """Bytes of the second half of a gradient exchange over those of the parameters.

    An optimiser that is not sharded sums whole gradients everywhere, so it gathers gradients.
    """
    if plan.sharding == "none" and waits_for_transfers(plan, calibration):
        return plan.workload.gradient_bytes / plan.workload.parameter_bytes
    return 1.0


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


def exchange_seconds(
    plan: Plan, network: Network, shape: StageShape, op: Op, bucket: Bucket
) -> float:
    """What one bucket gathers or reduces around a step, in all data groups of the stage at once.

    With overlap the first gather of sharded weights and the last reduction have nothing to
    hide behind; without, every micro-batch has its own (:func:`stage_extras`).
    """
    counted = plan.overlap or not gathers(plan.sharding)[0]
    if op is not Op.ALL_GATHER:
        return moves_seconds(
            plan, network, shape, bucket, lambda e: (e.reduce if counted else None, e.across)
        )
    ratio = gathered_over_parameters(plan, network.calibration)
    return moves_seconds(
        plan,
        network,
        shape,
        bucket,
        lambda e: (e.gather if counted else None, *e.refresh),
        ratio=ratio,
    )


def moves_seconds(
    plan: Plan,
    network: Network,
    shape: StageShape,
    bucket: Bucket,
    choose: Callable[[Exchange], Iterable[Move | None]],
    *,
    ratio: float = 1.0,
) -> float:
    """Some of the collectives of a bucket, one after the other, each in all its groups at once.

    Args:
        ratio: multiplies bytes.
    """
    rows = [
        [(m, count) for one, count in e.of(bucket) for m in choose(one) if m is not None]
        for e in shape.exchanges
    ]
    seconds = 0.0
    for pairs in zip(*rows, strict=True):
        moves, elements = [move for move, _ in pairs], pairs[0][1]
        members: dict[str, list[int]] = {}
        for rank, move in zip(shape.ranks, moves, strict=True):
            members.setdefault(move.group, []).append(rank)
        size = moves[0].bytes_of(elements) * ratio
        together = [
            network.collective(moves[0].op, ranks, size, fabric_of(plan, name))
            for name, ranks in members.items()
        ]
        seconds += network.together(together).seconds
    return seconds


def cut_seconds(plan: Plan, network: Network, shape: StageShape, *, up: bool) -> float:
    """One micro-batch over the cut after a stage, in all replicas at once."""
    together = []
    for rank, parts in zip(shape.ranks, shape.outputs, strict=True):
        for part in parts:
            other = part.slices[0].rank
            ends = (other, rank) if up else (rank, other)
            fabric = fabric_of(plan, part.group)
            together.append(network.transfer(*ends, part.bytes_, fabric))
    return network.together(together).seconds
