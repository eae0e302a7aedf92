"""What a rank holds of its stages: all of it, or its share among tensor ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from holmes.errors import ConfigError
from holmes.models.common.tensor import TensorSplit
from holmes.plan.plan import Plan, Stage
from holmes.runtime.groups import Groups
from holmes.runtime.pipeline.pace import Pace
from holmes.runtime.pipeline.stage import LossFunction, StageSpec, TorchStage
from holmes.runtime.tensor.axis import TensorAxis
from holmes.runtime.tensor.lane import PartLog
from holmes.runtime.tensor.piece import Piece
from holmes.runtime.tensor.shared import SharedGradients, StepSums
from holmes.runtime.tensor.split import TensorSplitter, tie
from holmes.runtime.tensor.stage import TensorStage
from holmes.runtime.tensor.tally import declared, gathered_boundaries
from holmes.runtime.tensor.vocabulary import split_loss

Build = Callable[[int, int], Sequence[nn.Module]]


class Share:
    """All of the stages: a layout without tensor ranks.

    Attributes:
        pieces: by global name, what is held of each parameter; None: all of all.
        shared: sums the gradients of what several tensor ranks hold.
        log: what ran beside what inside blocks; None: nothing does.
    """

    pieces: dict[str, Piece] | None = None
    shared: StepSums | None = None
    log: PartLog | None = None

    def build(self, build: Build, stage: Stage) -> Sequence[nn.Module]:
        """The blocks of a stage."""
        return build(*stage.blocks)

    def apply(self, blocks: Sequence[nn.Module], indices: Sequence[int]) -> None:
        """Keep this rank's share of whole blocks, in place.

        Args:
            indices: their places in the model.
        """

    def stage(self, spec: StageSpec) -> TorchStage:
        """The program of a stage."""
        return TorchStage(spec)

    def loss(self, loss: LossFunction) -> LossFunction:
        """The loss of the last stage."""
        return loss


class TensorShare(Share):
    """One rank's share among those of its tensor group."""

    def __init__(
        self, plan: Plan, groups: Groups, split: TensorSplit, pace: Pace | None = None
    ) -> None:
        name = next(g.name for g in plan.groups if g.axis == "tensor" and groups.rank in g.ranks)
        self.log = PartLog(groups.clock)
        self._axis = TensorAxis(groups[name], pace, chunks=plan.tensor_chunks, log=self.log)
        self._split = split
        self._plan = plan
        self.pieces = {}
        mine = [stage for stage in plan.stages if groups.rank in stage.ranks]
        blocks = [b for stage in mine for b in plan.workload.blocks[slice(*stage.blocks)]]
        tokens = plan.tokens_held / plan.workload.sequence
        first, last = plan.samples_of(groups.rank)
        expected = declared(blocks, self._axis.size, (last - first) * tokens, plan.recompute)
        if not plan.scatter_gather:
            expected += gathered_boundaries(plan, mine, (last - first) * tokens)
        self.shared = SharedGradients(self._axis, expected, plan.schedule.microbatches)

    def apply(self, blocks: Sequence[nn.Module], indices: Sequence[int]) -> None:
        assert self.pieces is not None
        for block, index in zip(blocks, indices, strict=True):
            pieces = self._splitter().apply(block)
            self.pieces |= {f"blocks.{index}.{name}": piece for name, piece in pieces.items()}

    def _splitter(self) -> TensorSplitter:
        workload = self._plan.workload
        return TensorSplitter(self._split, workload.key_heads or workload.heads, self._axis)

    def build(self, build: Build, stage: Stage) -> Sequence[nn.Module]:
        workload = self._plan.workload
        blocks, pieces = self._splitter().build(build, *stage.blocks)
        assert self.pieces is not None
        self.pieces |= pieces
        if workload.tied is not None:
            table, head = workload.tied
            names = (
                f"blocks.{table}.{self._split.table}.weight",
                f"blocks.{head}.{self._split.head}.weight",
            )
            tie(blocks, stage.blocks[0], [names])
        return blocks

    def stage(self, spec: StageSpec) -> TorchStage:
        return TensorStage(spec, self._axis, whole=not self._plan.scatter_gather)

    def loss(self, loss: LossFunction) -> LossFunction:
        """Cross-entropy over the split vocabulary."""
        assert self.pieces is not None
        head = f"blocks.{len(self._plan.workload.blocks) - 1}.{self._split.head}.weight"
        piece = self.pieces.get(head)
        if piece is None:
            return loss
        return partial(_split_loss, piece, self._axis)


def _split_loss(piece: Piece, axis: TensorAxis, logits: Tensor, targets: Tensor) -> Tensor:
    return split_loss(logits, targets, piece, axis)


def share_of(
    plan: Plan, groups: Groups, split: TensorSplit | None, pace: Pace | None = None
) -> Share:
    """The share of this rank.

    Args:
        pace: of this rank's computation.

    Raises:
        ConfigError: tensor ranks are planned for a model that declares no split.
    """
    mine = next(stage for stage in plan.stages if groups.rank in stage.ranks)
    if mine.layout.tp == 1:
        return Share()
    if split is None:
        raise ConfigError(
            f"models of the family {plan.workload.family} do not declare a tensor split",
            where="parallel.tensor",
            next_step="use parallel.tensor=1",
        )
    return TensorShare(plan, groups, split, pace)
