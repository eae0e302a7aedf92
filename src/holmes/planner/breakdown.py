"""Where the seconds of a step go, as parts that add up to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from holmes.cost.axes import unfilled_seconds
from holmes.cost.experts import exchange_seconds
from holmes.cost.model import CostModel
from holmes.planner.candidates import Choice
from holmes.planner.draft import Draft
from holmes.planner.estimates import Estimates
from holmes.planner.round_trips import round_trips
from holmes.planner.split_cost import SplitCost
from holmes.schedule.generate import FORMS
from holmes.workload.workload import Collective, Segment, Workload


@dataclass(frozen=True)
class Breakdown:
    """Parts of a step, seconds; :meth:`parts` names them for a reader.

    Attributes:
        compute: products and element-wise work of the mean device, once.
        recompute: forwards that are done again.
        tensor: collectives inside blocks over the tensor ranks.
        context: rings and per-micro-batch gathers that their blocks do not hide.
        experts: tokens on their way to experts of other ranks, and back.
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
    experts: float
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
            "tokens to experts and back": self.experts,
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
    whole = draft.rank_seconds
    mean, slowest = sum(whole) / len(whole), max(whole)
    choice = draft.choice
    once = _mean(draft, replace(choice, recompute="none"))
    bare = _mean(draft, replace(choice, recompute="none"), tensor=False)
    plain = _mean(
        draft, replace(choice, recompute="none", sharding="optimizer"), tensor=False, ring=False
    )
    experts = microbatches * _dispatch(draft)
    period = max(slowest, max(estimates.cut_seconds, default=0.0), _round_trip(draft))
    optimizer, exchange = _steps(draft)
    known = {
        "compute": microbatches * plain,
        "recompute": microbatches * (mean - once),
        "tensor": microbatches * (once - bare),
        "context": microbatches * (bare - plain) - experts,
        "experts": experts,
        "imbalance": microbatches * (slowest - mean),
        "bubble": _bubble(draft),
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
    return sum(other.seconds(draft.borders)) / draft.shape.layout.pp


def _dispatch(draft: Draft) -> float:
    """All-to-alls of a micro-batch among expert ranks, mean over the stages, those of a
    recomputed forward left to the recomputation."""
    layout, micro = draft.shape.layout, draft.shape.batch.micro
    blocks, seconds = draft.estimates.ground.cost.workload.blocks, 0.0
    for stage, borders in enumerate(draft.borders) if layout.ep > 1 else ():
        way = partial(draft.estimates.ground.tokens[stage % layout.pp].seconds, operations=1)
        for block in blocks[slice(*borders)]:
            seconds += sum(exchange_seconds(block, micro, layout.cp, way, "none"))
    return seconds / layout.pp


def _steps(draft: Draft) -> tuple[float, float]:
    """(optimiser, exposed gradient exchange) of the pipeline rank where each is longest."""
    estimates, pp = draft.estimates, draft.shape.layout.pp
    steps, exposed = [0.0] * pp, [0.0] * pp
    for stage, blocks in enumerate(draft.borders):
        steps[stage % pp] += estimates.step_seconds(stage % pp, *estimates.parameters(*blocks))
        exposed[stage % pp] += estimates.exposed(stage % pp, *blocks)
    optimizer = max(steps)
    return optimizer, max(0.0, max(exposed) - optimizer)


def _bubble(draft: Draft) -> float:
    """Fill and drain: what the other ranks take, less what the schedule saves of it."""
    whole, choice = draft.rank_seconds, draft.choice
    if not FORMS[choice.schedule].splits_backward:
        share = FORMS[choice.schedule].filled_share(choice.virtual_stages)
        return share * (sum(whole) - max(whole))
    costs = draft.estimates.stage_costs((0,) * len(draft.borders))
    found = 0.0
    for stage, (start, stop) in list(enumerate(draft.borders))[1:]:
        forward, backward = (
            costs.forward_seconds(stage, start, stop),
            costs.backward_seconds(stage, start, stop),
        )
        weight = sum(draft.estimates.weights[stage][start:stop])
        found += unfilled_seconds(forward, backward, weight)
    return found


def _round_trip(draft: Draft) -> float:
    """Seconds a micro-batch for which stages wait on round trips through their cuts."""
    estimates, stages = draft.estimates, draft.shape.layout.pp
    form = FORMS[draft.schedule]
    if form.fixed is not None or draft.choice.virtual_stages > 1 or stages == 1:
        return 0.0
    whole, after = np.array([draft.stage_seconds]), np.zeros((1, stages))
    if form.splits_backward:
        each = zip(estimates.weights, draft.borders, strict=True)
        after[0] = [sum(weights[slice(*blocks)]) for weights, blocks in each]
    cuts = np.array([estimates.cut_seconds])
    flight = np.array([[stages - s + sum(draft.extras[s:]) for s in range(stages)]], dtype=float)
    most = np.array([float(draft.shape.microbatches)])
    return float(round_trips(whole - after, after, cuts, flight, most)[0])


@dataclass(frozen=True)
class WithoutRings(Estimates):
    """Estimates whose context rings, repeated gathers and tokens for experts take no time."""

    @cached_property
    def cost(self) -> CostModel:
        priced = super().cost
        assert isinstance(priced, SplitCost)
        return replace(priced, rings=(), exchanges=(), tokens=())


def _without_tensor(workload: Workload) -> Workload:
    inner: dict[int, tuple[Segment | Collective, ...]] = {}
    for block in workload.blocks:
        if id(block.inner) not in inner:  # equal blocks share their program, and still do after
            inner[id(block.inner)] = tuple(
                part
                for part in block.inner
                if not (isinstance(part, Collective) and part.axis == "tensor")
            )
    blocks = tuple(replace(block, inner=inner[id(block.inner)]) for block in workload.blocks)
    return replace(workload, blocks=blocks)
