"""Where the seconds of a step go, as parts that add up to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from holmes.cost.axes import filled_share
from holmes.cost.model import CostModel
from holmes.planner.candidates import Choice
from holmes.planner.draft import Draft
from holmes.planner.estimates import Estimates
from holmes.planner.pricing import round_trip
from holmes.planner.split_cost import SplitCost
from holmes.workload.workload import Collective, Workload


@dataclass(frozen=True)
class Breakdown:
    """Parts of a step, seconds; :meth:`parts` names them for a reader.

    Attributes:
        compute: products and element-wise work of the mean device, once.
        recompute: forwards that are done again.
        tensor: collectives inside blocks over the tensor ranks.
        context: rings and per-micro-batch gathers that their blocks do not hide.
        imbalance: what the slowest stage takes beyond the mean.
        bubble: fill and drain of the pipeline.
        cuts: transfers between stages that the warm-up does not hide.
        exchange: gradient exchange and parameter gathers that nothing hides.
        optimizer: the optimiser step.
        shared: the sum of the weight that the first and the last stage share.
        other: norms, and what the closed form cannot tell apart.
    """

    compute: float
    recompute: float
    tensor: float
    context: float
    imbalance: float
    bubble: float
    cuts: float
    exchange: float
    optimizer: float
    shared: float
    other: float

    def parts(self) -> Mapping[str, float]:
        """Seconds by name, in the order of the step."""
        return {
            "compute": self.compute,
            "recomputation": self.recompute,
            "tensor collectives": self.tensor,
            "context and sharding collectives": self.context,
            "uneven stages": self.imbalance,
            "pipeline bubble": self.bubble,
            "transfers between stages": self.cuts,
            "gradient exchange": self.exchange,
            "optimiser": self.optimizer,
            "shared embedding": self.shared,
            "norms and the rest": self.other,
        }


def breakdown(draft: Draft, seconds: float) -> Breakdown:
    """The parts of a draft whose step takes ``seconds``."""
    estimates, microbatches = draft.estimates, draft.shape.microbatches
    whole = draft.stage_seconds
    mean, slowest = sum(whole) / len(whole), max(whole)
    choice = draft.choice
    once = _mean(draft, replace(choice, recompute="none"))
    bare = _mean(draft, replace(choice, recompute="none"), tensor=False)
    plain = _mean(
        draft, replace(choice, recompute="none", sharding="optimizer"), tensor=False, ring=False
    )
    period = max(slowest, max(estimates.cut_seconds, default=0.0), round_trip(draft))
    share = filled_share(choice.schedule, choice.virtual_stages)
    optimizer = max(
        estimates.step_seconds(s, _elements(estimates.cost.workload, blocks))
        for s, blocks in enumerate(draft.borders)
    )
    exchange = max(
        max(0.0, estimates.exposed(s, *blocks) - optimizer)
        for s, blocks in enumerate(draft.borders)
    )
    known = {
        "compute": microbatches * plain,
        "recompute": microbatches * (mean - once),
        "tensor": microbatches * (once - bare),
        "context": microbatches * (bare - plain),
        "imbalance": microbatches * (slowest - mean),
        "bubble": share * (sum(whole) - slowest),
        "cuts": microbatches * (period - slowest) + 2 * sum(estimates.cut_seconds),
        "exchange": exchange,
        "optimizer": optimizer,
        "shared": _shared(draft),
    }
    rest = seconds - sum(known.values())
    if rest < 0:
        # The fill hides transfers, exchange and bubble from one another: take it off them.
        hidden = ("bubble", "cuts", "exchange", "shared")
        total = sum(known[name] for name in hidden)
        for name in hidden:
            known[name] += rest * known[name] / total if total else 0.0
        rest = seconds - sum(known.values())
    return Breakdown(other=rest, **known)


def _shared(draft: Draft) -> float:
    workload, layout = draft.estimates.cost.workload, draft.shape.layout
    if workload.tied is None or layout.pp == 1:
        return 0.0
    bytes_ = workload.tied_parameters * workload.gradient_bytes / layout.tp
    return draft.estimates.ground.wrap.seconds(bytes_, 2)


def _mean(draft: Draft, choice: Choice, *, tensor: bool = True, ring: bool = True) -> float:
    """Forward and backward of a micro-batch, mean over the stages, under another choice."""
    old = draft.estimates
    ground = old.ground
    if not tensor:
        workload = _without_tensor(ground.cost.workload)
        ground = replace(ground, cost=replace(ground.cost, workload=workload))
    other = Estimates(old.settings, old.shape, ground, choice)
    if not ring and isinstance(other.cost, SplitCost):
        other = WithoutRings(old.settings, old.shape, ground, choice)
    costs = other.stage_costs((0,) * len(draft.borders))
    each = [costs.seconds(s, *blocks) for s, blocks in enumerate(draft.borders)]
    return sum(each) / len(each)


@dataclass(frozen=True)
class WithoutRings(Estimates):
    """Estimates whose context rings and repeated gathers take no time."""

    @cached_property
    def cost(self) -> CostModel:
        priced = super().cost
        assert isinstance(priced, SplitCost)
        return replace(priced, rings={}, exchanges={})


def _without_tensor(workload: Workload) -> Workload:
    blocks = tuple(
        replace(
            block,
            inner=tuple(
                part
                for part in block.inner
                if not (isinstance(part, Collective) and part.axis == "tensor")
            ),
        )
        for block in workload.blocks
    )
    return replace(workload, blocks=blocks)


def _elements(workload: Workload, blocks: tuple[int, int]) -> float:
    return float(sum(block.parameters for block in workload.blocks[slice(*blocks)]))
