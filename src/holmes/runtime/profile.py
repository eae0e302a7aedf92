"""Measure what blocks and the optimiser cost on this device, for a calibration."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from holmes.runtime.pipeline.pace import Pace
from holmes.runtime.pipeline.program import MicroBatch
from holmes.runtime.pipeline.stage import TorchStage
from holmes.runtime.sharding.norm import sum_of_squares

WARM_UP = 5
Clock = Callable[[], float]


@dataclass(frozen=True)
class Measured:
    """Mean busy seconds of one micro-batch; ``spread`` is (q3 - q1) / median of the sum.

    ``input`` and ``weight`` are those of a backward in two parts, which together may cost more.
    Busy is processor time of the computing thread outside collectives, which what else runs
    on the machine hardly moves; on CUDA it is the time until the device is done.
    """

    forward: float
    backward: float
    input: float
    weight: float
    spread: float


def profile_blocks(
    stage: TorchStage,
    kinds: Sequence[str],
    batch: MicroBatch,
    pace: Pace,
    repeats: int = 25,
    clock: Clock | None = None,
) -> dict[str, Measured]:
    """Forward and backward of each kind of block, gradients accumulating.

    Every turn runs the chain forward, then backward, one block a call, paced as in a run:
    caches hold what they hold there, and a drift of the machine touches all kinds alike. Then
    it does so again with a backward in two parts.

    Args:
        stage: a whole short model, its blocks numbered from 0.
        kinds: the kind of each block; a kind may occur several times.
        repeats: turns of each, after some that warm up.
        clock: seconds, of which the time of a block is taken; busy seconds by default.
    """
    taken: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in kinds}
    for turn in range(WARM_UP + repeats):
        down, up = run_chain(stage, kinds, batch, pace, clock)
        _, *parts = run_chain(stage, kinds, batch, pace, clock, divided=True)
        if turn >= WARM_UP:
            for kind, *seconds in zip(kinds, down, up, *parts, strict=True):
                taken[kind].append(tuple(seconds))
    return {kind: _measured(found) for kind, found in taken.items()}


def _measured(taken: list[tuple[float, ...]]) -> Measured:
    """From the seconds of forward, backward and its two parts in every turn."""
    forward, backward, first, second = (statistics.fmean(part) for part in zip(*taken, strict=True))
    spread = _spread([down + up for down, up, *_ in taken])
    return Measured(forward, backward, first, second, spread)


def run_chain(
    stage: TorchStage,
    kinds: Sequence[str],
    batch: MicroBatch,
    pace: Pace,
    clock: Clock | None = None,
    *,
    divided: bool = False,
) -> list[list[float]]:
    """One micro-batch forward, then backward; seconds of each block, in model order.

    Args:
        divided: the gradients of all inputs come first, those of weights after them.
    """
    device = batch.tokens.device
    ranges = [(index, index + 1) for index in range(len(kinds))]
    down = [partial(stage.forward, 0, blocks, None, batch) for blocks in ranges]
    up: list[list[Callable[[], object]]] = [[partial(stage.backward, 0, b, None) for b in ranges]]
    if divided:
        up = [
            [partial(stage.input_gradient, 0, blocks, None) for blocks in ranges],
            [partial(stage.weight_gradient, 0, blocks) for blocks in ranges],
        ]
    found = [[_seconds(work, pace, device, clock) for work in down]]
    for works in up:
        found.append([_seconds(work, pace, device, clock) for work in reversed(works)][::-1])
    stage.take_loss()
    return found


def profile_optimizer(
    pace: Pace, elements: int = 1 << 20, repeats: int = 5, device: torch.device | None = None
) -> float:
    """Median busy seconds per parameter of norm, clipping and AdamW on a flat vector."""
    leaf = torch.zeros(elements, device=device)
    leaf.grad = gradient = torch.full_like(leaf, 1e-3)
    adamw = torch.optim.AdamW([leaf], lr=1e-3, foreach=False, fused=False)

    def update() -> None:
        sum_of_squares(gradient)
        gradient.mul_(0.5)
        adamw.step()

    seconds = []
    for turn in range(WARM_UP + repeats):
        took = _seconds(update, pace, leaf.device)
        if turn >= WARM_UP:
            seconds.append(took)
    return statistics.median(seconds) / elements


def _seconds(
    work: Callable[[], object], pace: Pace, device: torch.device, clock: Clock | None = None
) -> float:
    if device.type != "cuda":
        read = clock or (lambda: pace.busy_seconds)
        before = read()
        with pace:
            work()
        return read() - before
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _spread(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return (q3 - q1) / median
