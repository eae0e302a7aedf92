"""Measure what blocks and the optimiser cost on this device, for a calibration."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
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
    """Median seconds of one micro-batch; ``spread`` is (q3 - q1) / median of the sum."""

    forward: float
    backward: float
    spread: float


def profile_blocks(
    samples: Mapping[str, Sample], repeats: int = 7, *, autocast: Autocast = nullcontext
) -> dict[str, Measured]:
    """Forward and backward seconds of each kind of block, gradients accumulating.

    The kinds take turns, so that a drift of the machine touches all of them alike.
    """
    forward: dict[str, list[float]] = {kind: [] for kind in samples}
    backward: dict[str, list[float]] = {kind: [] for kind in samples}
    for turn in range(WARM_UP + repeats):
        for kind, sample in samples.items():
            seconds = _once(sample, autocast)
            if turn >= WARM_UP:
                forward[kind].append(seconds[0])
                backward[kind].append(seconds[1])
    for sample in samples.values():
        sample.block.zero_grad(set_to_none=True)
    return {
        kind: Measured(
            statistics.median(forward[kind]),
            statistics.median(backward[kind]),
            _spread([f + b for f, b in zip(forward[kind], backward[kind], strict=True)]),
        )
        for kind in samples
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


def _once(sample: Sample, autocast: Autocast) -> tuple[float, float]:
    x = sample.input
    if x.is_floating_point():
        x = x.detach().requires_grad_()
    outputs: list[Tensor] = []

    def forward() -> None:
        with autocast():
            output = sample.block(x)
        if sample.loss is not None and sample.targets is not None:
            output = sample.loss(output, sample.targets)
        outputs.append(output)

    first = _timed(forward, x.device)
    gradient = torch.ones_like(outputs[0])
    second = _timed(lambda: torch.autograd.backward(outputs[0], gradient), x.device)
    return first, second


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
