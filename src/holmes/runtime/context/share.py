"""What a rank of a context group holds: its stages as they are, and some of the tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from holmes.errors import ConfigError
from holmes.models.common.attention import Rotary
from holmes.models.common.context import ContextSplit
from holmes.plan.chunks import deal
from holmes.plan.plan import Plan, Stage
from holmes.runtime.context.attention import ContextCore
from holmes.runtime.context.axis import ContextAxis
from holmes.runtime.context.tally import declared
from holmes.runtime.groups import Groups
from holmes.runtime.pipeline.pace import Pace
from holmes.runtime.pipeline.program import TokenShare
from holmes.runtime.pipeline.stage import LossFunction, StageSpec, TorchStage
from holmes.runtime.sharding.buckets import FlatBucket
from holmes.runtime.tensor.share import Build, Share
from holmes.runtime.tensor.shared import StepSums
from holmes.runtime.tensor.tally import Tally, check


class ContextShare(Share):
    """A share whose attention runs over a context group.

    Parameters are those of ``inner``: context ranks are replicas of one another, and the
    data group, which joins them all, sums their gradients.
    """

    def __init__(
        self,
        inner: Share,
        plan: Plan,
        groups: Groups,
        split: ContextSplit,
        pace: Pace | None = None,
    ) -> None:
        name = next(g.name for g in plan.groups if g.axis == "context" and groups.rank in g.ranks)
        self._inner, self._split, self._plan = inner, split, plan
        self.log = inner.log
        self._axis = ContextAxis(groups[name], pace)
        self._chunks = deal(
            plan.workload.sequence, plan.context, plan.context_algorithm, plan.tensor
        )
        self._own = self._chunks.own[self._axis.index]
        self._positions = torch.tensor(
            self._chunks.positions(self._axis.index), device=groups.device
        )
        expected = declared(plan, groups.rank)
        self.shared = CheckedStep(self._axis, expected, plan.schedule.microbatches, inner)

    def build(self, build: Build, stage: Stage) -> Sequence[nn.Module]:
        blocks = self._inner.build(build, stage)
        self.pieces = self._inner.pieces
        for block in blocks:
            self._apply(block)
        return blocks

    def stage(self, spec: StageSpec) -> TorchStage:
        tokens = TokenShare(self._positions, self._own / self._chunks.length)
        return self._inner.stage(replace(spec, tokens=tokens, evaluating=self._axis.uncounted))

    def loss(self, loss: LossFunction) -> LossFunction:
        """The mean over this rank's tokens, without padding."""
        return partial(_own_loss, self._inner.loss(loss), self._own)

    def _apply(self, block: nn.Module) -> None:
        """Attention over the group, and places in the sample instead of in the chunk."""
        split = self._split
        modules: dict[str, Any] = dict(block.named_modules())
        if split.core in modules:
            algorithm, window = self._plan.context_algorithm, modules[split.core].window
            core = ContextCore(self._axis, self._chunks, algorithm, window)
            block.set_submodule(split.core, core)
        rotary = modules.get(split.rotary)
        if isinstance(rotary, Rotary):
            rotary.keep(self._positions)
        if split.position in modules:
            modules[split.position].register_forward_pre_hook(self._places)

    def _places(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        places = arguments[
            0
        ]  # by token of a chunk, [S], or in the documents of whole samples, [B, L]
        own = self._positions[places] if places.dim() == 1 else places[:, self._positions]
        return (own, *arguments[1:])


class CheckedStep:
    """Compares what a step sent over the context group with the Workload, then goes on.

    Args:
        expected: of one micro-batch through the stages of this rank.
        inner: whose sums follow.
    """

    def __init__(self, axis: ContextAxis, expected: Tally, microbatches: int, inner: Share) -> None:
        self._axis, self._expected = axis, expected
        self._microbatches, self._inner = microbatches, inner

    def sum(self, buckets: Iterable[FlatBucket]) -> None:
        """See :class:`StepSums`."""
        comm = self._axis.comm
        where = f"rank {comm.ranks[comm.index]}, {comm}"
        check(self._axis.take_tally(), self._expected, self._microbatches, where, "context")
        sums: StepSums | None = self._inner.shared
        if sums is not None:
            sums.sum(buckets)


def _own_loss(loss: LossFunction, own: int, logits: Tensor, targets: Tensor) -> Tensor:
    return loss(logits[:, :own], targets[:, :own])


def with_context(
    inner: Share,
    plan: Plan,
    groups: Groups,
    split: ContextSplit | None,
    pace: Pace | None = None,
) -> Share:
    """The share of this rank, over its context group where there is one.

    Args:
        pace: of this rank's computation.

    Raises:
        ConfigError: context ranks are planned for a model that does not say what sees positions.
    """
    if plan.context == 1:
        return inner
    if split is None:
        raise ConfigError(
            f"models of the family {plan.workload.family} cannot run on part of the tokens",
            where="parallel.context",
            next_step="use parallel.context=1",
        )
    return ContextShare(inner, plan, groups, split, pace)
