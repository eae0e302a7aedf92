"""What ranks of a context group run in tests."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor.experimental._context_parallel import _attention as torch_ring

from holmes.errors import HolmesError
from holmes.launch.context import RankContext
from holmes.plan.chunks import Chunks, deal
from holmes.runtime.context.attention import context_attention
from holmes.runtime.context.axis import ContextAxis
from holmes.runtime.context.blocks import Rule
from holmes.runtime.context.reference import full_attention
from tests.runtime.cases import join
from tests.runtime.plans import Spec


@dataclass(frozen=True)
class Sample:
    """One attention; JSON-able."""

    algorithm: str = "ring"
    length: int = 12
    causal: bool = True
    masked: bool = False
    heads: int = 6
    key_heads: int = 6
    dtype: str = "float64"
    padded: bool = False
    window: int | None = None
    apart: bool = False

    @property
    def name(self) -> str:
        changed = {k: v for k, v in asdict(self).items() if v != getattr(Sample(), k)}
        return "-".join(f"{k}={v}" for k, v in changed.items())


@dataclass(frozen=True)
class Whole:
    """Queries, keys, values and the gradient of the output over the whole sample."""

    q: Tensor
    k: Tensor
    v: Tensor
    d_out: Tensor
    mask: Tensor | None
    documents: Tensor | None = None


def whole(sample: Sample) -> Whole:
    """The same on every rank. The second sample is padding but for its middle, so a causal
    query before that reads nothing."""
    generator = torch.Generator().manual_seed(7)
    dtype = getattr(torch, sample.dtype)

    def draw(heads: int) -> Tensor:
        drawn = torch.randn((2, heads, sample.length, 4), generator=generator, dtype=torch.float64)
        return drawn.to(dtype)

    mask = None
    if sample.masked:
        mask = torch.ones((2, sample.length), dtype=torch.bool)
        mask[1, : sample.length // 3] = False
        mask[1, -1:] = False
    q, k, v = draw(sample.heads), draw(sample.key_heads), draw(sample.key_heads)
    documents = None
    if sample.apart:  # the second sample has three of them, the first one
        documents = torch.zeros((2, sample.length), dtype=torch.int64)
        documents[1, sample.length // 4 :] = 1
        documents[1, sample.length // 2 + 1 :] = 2
    return Whole(q, k, v, draw(sample.heads), mask, documents)


def expected(given: Whole, sample: Sample) -> list[Tensor]:
    """Output and gradients of plain attention in fp64."""
    leaves = [t.double().requires_grad_() for t in (given.q, given.k, given.v)]
    out = full_attention(
        *leaves,
        causal=sample.causal,
        key_mask=given.mask,
        window=sample.window,
        documents=given.documents,
    )
    return [out.detach(), *torch.autograd.grad(out, leaves, given.d_out.double())]


def share(tensor: Tensor, chunks: Chunks, rank: int) -> Tensor:
    """The tokens of a rank, padding repeating one."""
    return tensor[:, :, chunks.positions(rank)].contiguous()


def attend(sample: Sample, axis: ContextAxis) -> dict[str, Any]:
    """Largest max|a - b| / max|a| of output and gradients of this rank, and what it sent."""
    given = whole(sample)
    chunks = deal(sample.length, axis.size, sample.algorithm, padded=sample.padded)  # type: ignore[arg-type]
    rank = axis.index
    leaves = [share(t, chunks, rank).requires_grad_() for t in (given.q, given.k, given.v)]
    rule = Rule(sample.causal, given.mask, sample.window, given.documents)
    axis.take_tally()
    out = context_attention(*leaves, axis, chunks, sample.algorithm, rule=rule)  # type: ignore[arg-type]
    forward = axis.take_tally().total_bytes
    d_out = share(given.d_out, chunks, rank)
    found = [out.detach(), *torch.autograd.grad(out, leaves, d_out)]
    own = chunks.own[rank]
    worst = 0.0
    for mine, full in zip(found, expected(given, sample), strict=True):
        wanted = share(full, chunks, rank)[:, :, :own]
        worst = max(worst, ((mine[:, :, :own] - wanted).abs().max() / full.abs().max()).item())
        assert not mine[:, :, own:].any(), "padding has an output or a gradient"
    return {"worst": worst, "forward": forward, "backward": axis.take_tally().total_bytes}


def compare(context: RankContext, samples: list[dict[str, Any]], ranks: int) -> dict[str, Any]:
    """Every sample on one group of ranks; by name what :func:`attend` found."""
    groups = join(context, Spec(dp=ranks))
    axis = ContextAxis(groups["world"])
    found = {}
    for values in samples:
        sample = Sample(**values)
        found[sample.name] = attend(sample, axis)
    groups.close()
    return found


def check_gradients(context: RankContext) -> dict[str, Any]:
    """Numerical gradients of ring attention over three ranks.

    A perturbation is of one element on one rank, and moves outputs on all of them, so all
    ranks compute the same function of the whole sample: the chunk of each is taken from it,
    and the chunks of the output and of the gradients are put together by a sum over ranks.
    """
    groups = join(context, Spec(dp=3))
    axis = ContextAxis(groups["world"])
    chunks = deal(7, 3, "ring", padded=False)
    positions = chunks.positions(axis.index)

    class Joined(torch.autograd.Function):
        """Own rows to all rows, zeros elsewhere, summed over ranks; backward takes own rows."""

        @staticmethod
        def forward(ctx: Any, mine: Tensor) -> Tensor:
            full = mine.new_zeros((*mine.shape[:2], 7, mine.shape[3]))
            full[:, :, positions] = mine
            torch.distributed.all_reduce(full)
            return full

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0][:, :, positions].contiguous()

    class Taken(torch.autograd.Function):
        """All rows to own rows; backward puts the gradients of all ranks together."""

        @staticmethod
        def forward(ctx: Any, full: Tensor) -> Tensor:
            return full[:, :, positions].contiguous()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            full = gradients[0].new_zeros((*gradients[0].shape[:2], 7, gradients[0].shape[3]))
            full[:, :, positions] = gradients[0]
            torch.distributed.all_reduce(full)
            return full

    def function(*leaves: Tensor) -> Tensor:
        q, k, v = (Taken.apply(leaf) for leaf in leaves)  # type: ignore[no-untyped-call]
        rule = Rule(causal=True)
        return Joined.apply(  # type: ignore[no-any-return, no-untyped-call]
            context_attention(q, k, v, axis, chunks, "ring", rule=rule)
        )

    generator = torch.Generator().manual_seed(3)
    shapes = ((1, 2, 7, 2), (1, 1, 7, 2), (1, 1, 7, 2))
    leaves = [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    ]
    good = torch.autograd.gradcheck(function, leaves)
    groups.close()
    return {"good": good}


def beside_torch(context: RankContext, ranks: int) -> dict[str, Any]:
    """Ring attention and torch's own ring around its CPU kernel, which deals tokens alike.

    Its public context manager has no rule for that kernel, so the ring is called by itself.
    """
    groups = join(context, Spec(dp=ranks))
    axis, world = ContextAxis(groups["world"]), torch.distributed.group.WORLD
    sample = Sample("ring", 8 * ranks, heads=4, key_heads=4)
    given, chunks = whole(sample), deal(sample.length, ranks, "ring")
    leaves = [share(t, chunks, axis.index).requires_grad_() for t in (given.q, given.k, given.v)]
    d_out = share(given.d_out, chunks, axis.index)
    ours = context_attention(*leaves, axis, chunks, "ring", rule=Rule(causal=True))  # type: ignore[misc]
    gradients = torch.autograd.grad(ours, leaves, d_out)
    kernels = torch.ops.aten
    theirs, log_sum = torch_ring._templated_ring_attention(
        world,
        2,
        kernels._scaled_dot_product_flash_attention_for_cpu,
        *(leaf.detach() for leaf in leaves),
        is_causal=True,
    )
    back = torch_ring._templated_ring_attention_backward(
        world,
        2,
        kernels._scaled_dot_product_flash_attention_for_cpu_backward.default,
        d_out,
        "grad_out",
        *(leaf.detach() for leaf in leaves),
        theirs,
        log_sum,
        is_causal=True,
        dropout_p=0.0,
    )
    groups.close()
    pairs = zip((ours.detach(), *gradients), (theirs, *back), strict=True)
    return {"worst": max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)}


def late(context: RankContext, seconds: float) -> dict[str, Any]:
    """One rank comes late: the others wait, and the result is right."""
    groups = join(context, Spec(dp=2))
    axis = ContextAxis(groups["world"])
    if context.rank == 1:
        time.sleep(seconds)
    found = {
        algorithm: attend(Sample(algorithm), axis)["worst"]
        for algorithm in ("ring", "rsa", "ulysses")
    }
    groups.close()
    return found


def fail_in_attention(context: RankContext, algorithm: str) -> dict[str, Any]:
    """Rank 1 raises before its attention; the others report what they saw."""
    groups = join(context, Spec(dp=3), timeout_seconds=10.0)
    axis = ContextAxis(groups["world"])
    attend(Sample(algorithm), axis)
    if context.rank == 1:
        raise ArithmeticError("a number went wrong")
    try:
        for _ in range(20):
            attend(Sample(algorithm), axis)
    except HolmesError as error:
        context.report({"text": error.text()})
        raise
    return {}
