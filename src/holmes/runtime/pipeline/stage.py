"""One pipeline stage: forward and backward of block ranges, on torch or asleep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from holmes.runtime.pipeline.program import ALL_TOKENS, Blocks, MicroBatch, StagePlace, TokenShare
from holmes.runtime.pipeline.split import WeightPart, input_gradient
from holmes.runtime.sharding.loss_scale import LossScale

LossFunction = Callable[[Tensor, Tensor], Tensor]
Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class StageSpec:
    """What a rank computes of a stage, and how.

    Attributes:
        blocks: the modules of blocks [place.start, place.stop).
        loss: of the last block's output and the targets; a mean over the micro-batch.
        loss_divisor: samples of the step over those of this rank's micro-batch: whatever the
            shares, gradients sum to those of the mean over all tokens.
        boundary: has the shape, type and device of what is passed on.
        recompute: keep only block inputs and run each block again before its backward
            (with the random numbers of the first time).
        autocast: makes the context in which blocks run forward.
        apart: micro-batches keep documents apart, so every stage needs them.
        tokens: this rank's part of each sample.
        evaluating: makes a context around each evaluation.
        scale: multiplies the loss that backward starts from.
    """

    place: StagePlace
    blocks: Sequence[nn.Module]
    loss: LossFunction
    loss_divisor: float
    boundary: Tensor
    recompute: bool = False
    autocast: Autocast = nullcontext
    apart: bool = False
    tokens: TokenShare = ALL_TOKENS
    evaluating: Autocast = nullcontext
    scale: LossScale = field(default_factory=LossScale)


@dataclass
class _Kept:
    """What backward of one block needs: its detached input, and its output or how to redo it."""

    input: Tensor
    output: Tensor | None
    batch: MicroBatch | None
    rng: Tensor | None


class TorchStage:
    """Real blocks. Activations are detached at block boundaries, so backward of a range is
    a loop over its blocks, and the graph of a block is freed as soon as it is used.
    """

    def __init__(self, spec: StageSpec) -> None:
        place = self.place = spec.place
        assert len(spec.blocks) == place.stop - place.start
        self.uses_data = place.is_first or place.is_last or spec.apart
        self.tokens = spec.tokens
        self._spec = spec
        self._blocks = dict(enumerate(spec.blocks, place.start))
        self._kept: dict[tuple[int, int], _Kept] = {}
        self._waiting: dict[tuple[int, int], list[WeightPart]] = {}
        self._between: dict[int, Tensor] = {}
        self._losses: list[Tensor] = []

    def new_input(self) -> Tensor:
        return torch.empty_like(self._spec.boundary)

    def new_output_gradient(self) -> Tensor:
        return torch.empty_like(self._spec.boundary)

    def forward(
        self, microbatch: int, blocks: Blocks, received: Tensor | None, batch: MicroBatch | None
    ) -> Tensor:
        batch = self.tokens.of(batch)
        x = self._range_input(microbatch, blocks, received, batch)
        for index in range(*blocks):
            if x.is_floating_point():
                x = x.detach().requires_grad_()
            rng = _rng_state(x.device) if self._spec.recompute else None
            with torch.set_grad_enabled(not self._spec.recompute):
                output = self._run(index, x, batch)
            kept = None if self._spec.recompute else output
            self._kept[microbatch, index] = _Kept(x, kept, batch, rng)
            if batch is not None and self._is_loss(index):
                self._losses.append(output.detach())
            x = output
        if blocks[1] < self.place.stop:
            self._between[microbatch] = x
        self._finish()
        ends = blocks[1] == self.place.stop and not self.place.is_last
        return self._passed_on(x.detach()) if ends else x.detach().contiguous()

    def backward(self, microbatch: int, blocks: Blocks, received: Tensor | None) -> Tensor | None:
        gradient = self._range_gradient(microbatch, blocks, received)
        for index in reversed(range(*blocks)):
            kept = self._kept.pop((microbatch, index))
            output = self._output(index, kept)
            if output.requires_grad:  # not where an embedding is frozen
                torch.autograd.backward(output, gradient)
            gradient = kept.input.grad
        return self._range_done(microbatch, blocks, gradient)

    def input_gradient(
        self, microbatch: int, blocks: Blocks, received: Tensor | None
    ) -> Tensor | None:
        gradient = self._range_gradient(microbatch, blocks, received)
        for index in reversed(range(*blocks)):
            kept = self._kept.pop((microbatch, index))
            gradient, self._waiting[microbatch, index] = input_gradient(
                self._output(index, kept), kept.input, gradient
            )
        return self._range_done(microbatch, blocks, gradient)

    def weight_gradient(self, microbatch: int, blocks: Blocks) -> None:
        for index in reversed(range(*blocks)):
            for part in self._waiting.pop((microbatch, index)):
                part.run()
        self._finish()

    @torch.no_grad()
    def evaluate(self, blocks: Blocks, received: Tensor | None, batch: MicroBatch | None) -> Tensor:
        batch = self.tokens.of(batch)
        x = self._taken(received) if blocks[0] == self.place.start else received
        if blocks[0] == 0:
            assert batch is not None
            x = batch.tokens
        assert x is not None
        with self._spec.evaluating(), self._spec.autocast():
            for index in range(*blocks):
                x = _through(self._blocks[index], x, batch)
        if blocks[1] < self.place.stop:
            return x
        if self.place.is_last:
            assert batch is not None
            x = self._loss_of(x, batch)
        self._finish()
        return x if self.place.is_last else self._passed_on(x)

    def take_loss(self) -> float | None:
        if not self.place.is_last:
            return None
        total = 0.0
        for loss in self._losses:
            total += loss.item()
        self._losses.clear()
        return total / self._spec.scale.value

    def _range_input(
        self, microbatch: int, blocks: Blocks, received: Tensor | None, batch: MicroBatch | None
    ) -> Tensor:
        if blocks[0] > self.place.start:
            return self._between.pop(microbatch)
        if self.place.is_first:
            assert batch is not None
            return batch.tokens
        taken = self._taken(received)
        assert taken is not None
        return taken

    def _range_gradient(
        self, microbatch: int, blocks: Blocks, received: Tensor | None
    ) -> Tensor | None:
        if blocks[1] < self.place.stop:
            return self._between.pop(microbatch)
        return self._taken(received)

    def _range_done(
        self, microbatch: int, blocks: Blocks, gradient: Tensor | None
    ) -> Tensor | None:
        if blocks[0] > self.place.start:
            assert gradient is not None
            self._between[microbatch] = gradient
        self._finish()
        ends = blocks[0] == self.place.start and not self.place.is_first
        return self._passed_on(gradient) if ends and gradient is not None else gradient

    def _is_loss(self, index: int) -> bool:
        return index == self.place.total - 1

    def _run(self, index: int, x: Tensor, batch: MicroBatch | None) -> Tensor:
        with self._spec.autocast():
            output = _through(self._blocks[index], x, batch)
        if batch is not None and self._is_loss(index):
            output = self._loss_of(output, batch) * self.tokens.weight / self._spec.loss_divisor
            if self._spec.scale.value != 1.0:
                output = output * self._spec.scale.value
        return output

    def _loss_of(self, output: Tensor, batch: MicroBatch) -> Tensor:
        loss = self._spec.loss(output, batch.targets)
        return loss if batch.documents is None else loss * batch.weight

    def _output(self, index: int, kept: _Kept) -> Tensor:
        """A block's output with its graph; where it was not kept, the block runs a second
        time, with the random numbers it had the first time."""
        if kept.output is not None:
            return kept.output
        assert kept.rng is not None
        device = kept.input.device
        now = _rng_state(device)
        _set_rng_state(kept.rng, device)
        output = self._run(index, kept.input, kept.batch)
        _set_rng_state(now, device)
        return output

    def _passed_on(self, boundary: Tensor) -> Tensor:
        """What this rank sends of its boundary, contiguous."""
        return boundary.contiguous()

    def _taken(self, received: Tensor | None) -> Tensor | None:
        """What this rank computes with of what it received."""
        return self._take_on_this_stream(received)

    def _take_on_this_stream(self, received: Tensor | None) -> Tensor | None:
        """On CUDA, keep the allocator from reusing a lane's buffer while this stream reads it."""
        if received is not None and received.is_cuda:
            received.record_stream(torch.cuda.current_stream(received.device))
        return received

    def _finish(self) -> None:
        """Compute is complete when the call returns: lanes and spans rely on it."""
        if self._spec.boundary.is_cuda:
            torch.cuda.current_stream(self._spec.boundary.device).synchronize()


def _through(block: nn.Module, x: Tensor, batch: MicroBatch | None) -> Tensor:
    """A block's output; packed samples bring their documents."""
    documents = None if batch is None else batch.documents
    output: Tensor = block(x) if documents is None else block(x, documents)
    return output


def _rng_state(device: torch.device) -> Tensor:
    """The state of the generator that a block on this device draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_rng_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
