"""What context parallelism, sequence parallelism, sharding and schedules change in a cost.

Pure functions beside the base cost model, each with its source. A block that is
split over context or sequence is again a block: :func:`split_workload` gives the
model as one context rank sees it, and every other formula works on that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from holmes.cost.memory import split_by_tokens
from holmes.plan.layout import Sharding
from holmes.workload.workload import Block, Collective, Segment, Workload

BACKWARD_ROUNDS = 2
"""The backward of ring attention passes keys and values again, and their gradients."""


@dataclass(frozen=True)
class Split:
    """How a sample is split besides tensor parallelism.

    Attributes:
        context: ranks that share the tokens of one sample.
        sequence: whether norms, dropouts and kept activations divide over the
            tensor ranks too (Korthikanti et al. 2022, section 4.2.2).
        expert: ranks that share the experts of a layer.
    """

    context: int = 1
    sequence: bool = False
    expert: int = 1


def split_workload(workload: Workload, split: Split) -> Workload:
    """The model as one context rank and one expert rank sees it.

    Work, activations and boundaries divide by the context degree: with balanced
    halves of a causal sequence every rank does 1/cp of the attention (Liu et al.
    2023, Ring Attention). An expert rank holds fewer experts, each with the tokens of all
    ranks that share them: as many products a layer as before, fewer and higher ones.
    Sequence parallelism is the cost model's own.
    """
    if split.context == split.expert == 1:
        return workload
    inner: dict[int, tuple[Segment | Collective, ...]] = {}
    for block in workload.blocks:
        if id(block.inner) not in inner:  # equal blocks share their program, and still do after
            inner[id(block.inner)] = _split_inner(block, split)
    shorter = split_by_tokens(workload, split.context, False)
    blocks = tuple(
        replace(_fewer_experts(short, split.expert), inner=inner[id(block.inner)])
        for block, short in zip(workload.blocks, shorter.blocks, strict=True)
    )
    return replace(workload, blocks=blocks)


def _fewer_experts(block: Block, ep: int) -> Block:
    held = block.expert_parameters // ep
    others = block.expert_parameters - held
    return replace(block, parameters=block.parameters - others, expert_parameters=held)


def _split_inner(block: Block, split: Split) -> tuple[Segment | Collective, ...]:
    cp = split.context
    return tuple(
        replace(part, bytes_=part.bytes_ / cp)
        if isinstance(part, Collective)
        else _split_segment(part, cp, split.expert)
        for part in block.inner
    )


def _split_segment(part: Segment, cp: int, ep: int) -> Segment:
    """A segment as one of ``cp`` context ranks and of ``ep`` expert ranks computes it."""
    fewer = ep if any(product.experts for product in part.products) else 1
    core = part.attention
    if core is not None:
        core = replace(core, queries=-(-core.queries // cp))
    return replace(
        part,
        flops=part.flops / cp,
        bytes_=part.bytes_ / cp,
        products=tuple(product.on_rank(cp=cp, ep=ep) for product in part.products),
        attention=core,
        backward_bytes=None if part.backward_bytes is None else part.backward_bytes / cp,
        weight_bytes=part.weight_bytes / fewer,
        kernels=max(1, part.kernels // fewer),
    )


def exposed_ring(ring: Any, attention: Any) -> Any:
    """Seconds of a context ring that the attention it feeds does not hide, one forward.

    Ring attention computes on one chunk while the next arrives (Liu et al. 2023).
    Both are numbers, or arrays of many.
    """
    if isinstance(attention, np.ndarray):
        return np.maximum(0.0, ring - attention)
    return max(0.0, ring - attention)


def unfilled_seconds(forward: Any, backward: Any, weight: Any) -> Any:
    """What each stage after the first adds to zero-bubble's fill and drain: the largest of
    f, i and f + i - w, with b = i + w (Qi et al. 2023, table 1); floats or arrays, seconds.
    """
    rest = backward - weight
    return np.maximum(np.maximum(forward, rest), forward + rest - weight)


def gathers(sharding: Sharding) -> tuple[int, int]:
    """(all-gathers in a forward, collectives in a backward) of every micro-batch.

    Sharded parameters are gathered for forward and again for backward, and
    gradients reduced after each backward (Rajbhandari et al. 2020, ZeRO, section 7.2.2);
    sharded gradients alone are reduced after each backward.
    """
    if sharding in ("parameters", "hybrid", "three-level"):
        return 1, 2
    if sharding == "gradients":
        return 0, 1
    return 0, 0
