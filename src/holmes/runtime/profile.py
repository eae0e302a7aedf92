"""Measure what blocks and the optimiser cost on this device, for a calibration."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holmes.runtime.pipeline.stage import Autocast, LossFunction

WARM_UP = 2


@dataclass(frozen=True)
class Sample:
    """A block of some kind with the inputs of one micro-batch.

    ``input`` are token ids for the first block, else the boundary activation. With a
    ``loss``, it belongs to the block, as it does in a run.
    """

    block: nn.Module
    input: Tensor
    targets: Tensor | None = None
    loss: LossFunction | None = None


@dataclass(frozen=True)
class Measured:
    """Mean seconds of one micro-batch; ``spread`` is (q3 - q1) / median of the sum.

    The mean, because a CPU quota lets a short block pass untouched or stops it for the
    rest of a period: the median of either kind is not what a long run pays.
    """

    forward: float
    backward: float
    spread: float


def profile_blocks(
    chain: Sequence[tuple[str, Sample]], repeats: int = 12, *, autocast: Autocast = nullcontext
) -> dict[str, Measured]:
    """Forward and backward seconds of each kind of block, gradients accumulating.

    Every turn runs the chain forward, then backward, as a stage does: caches hold what
    they hold in a run, and a drift of the machine touches all kinds alike.

    Args:
        chain: (kind, sample) in model order; a kind may occur several times.
        repeats: turns, after some that warm up.
    """
    forward: dict[str, list[float]] = {kind: [] for kind, _ in chain}
    backward: dict[str, list[float]] = {kind: [] for kind, _ in chain}
    for turn in range(WARM_UP + repeats):
        outputs = []
        for kind, sample in chain:
            seconds, output = _forward(sample, autocast)
            outputs.append(output)
            if turn >= WARM_UP:
                forward[kind].append(seconds)
        for kind, sample in reversed(chain):
            seconds = _backward(sample, outputs.pop())
            if turn >= WARM_UP:
                backward[kind].append(seconds)
    for _, sample in chain:
        sample.block.zero_grad(set_to_none=True)
    return {
        kind: Measured(
            statistics.fmean(forward[kind]),
            statistics.fmean(backward[kind]),
            _spread([f + b for f, b in zip(forward[kind], backward[kind], strict=True)]),
        )
        for kind in forward
    }


def profile_optimizer(
    elements: int = 1 << 20, repeats: int = 5, device: torch.device | None = None
) -> float:
    """Median seconds per parameter of one AdamW update on a flat vector."""
    leaf = torch.zeros(elements, device=device)
    leaf.grad = torch.full_like(leaf, 1e-3)
    adamw = torch.optim.AdamW([leaf], lr=1e-3, foreach=False, fused=False)
    seconds = []
    for turn in range(WARM_UP + repeats):
        took = _timed(lambda: adamw.step(), leaf.device)
        if turn >= WARM_UP:
            seconds.append(took)
    return statistics.median(seconds) / elements


def _forward(sample: Sample, autocast: Autocast) -> tuple[float, Tensor]:
    x = sample.input
    if x.is_floating_point():
        x = x.detach().requires_grad_()
    outputs: list[Tensor] = []

    def work() -> None:
        with autocast():
            output = sample.block(x)
        if sample.loss is not None and sample.targets is not None:
            output = sample.loss(output, sample.targets)
        outputs.append(output)

    return _timed(work, x.device), outputs[0]


def _backward(sample: Sample, output: Tensor) -> float:
    gradient = torch.ones_like(output)
    return _timed(lambda: torch.autograd.backward(output, gradient), sample.input.device)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _spread(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return (q3 - q1) / median
