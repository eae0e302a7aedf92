"""One pipeline stage: forward and backward of block ranges, on torch or asleep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from holmes.runtime.pipeline.split import WeightPart, input_gradient
from holmes.runtime.sharding.loss_scale import LossScale

Blocks = tuple[int, int]
LossFunction = Callable[[Tensor, Tensor], Tensor]
Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of the first block and targets of the loss, [micro, ...] each.

    ``documents`` numbers the document of every token, where they are kept apart: then all
    stages need it, and the loss is multiplied with ``weight``.
    """

    tokens: Tensor
    targets: Tensor
    documents: Tensor | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class TokenShare:
    """What a rank has of the tokens of its samples.

    Attributes:
        positions: of its tokens; None: all of them.
        weight: its part of the tokens that the loss of a micro-batch is the mean of.
    """

    positions: Tensor | None = None
    weight: float = 1.0

    def of(self, batch: MicroBatch | None) -> MicroBatch | None:
        """Its tokens and targets of a micro-batch of whole samples."""
        if batch is None or self.positions is None:
            return batch
        return MicroBatch(batch.tokens[:, self.positions], batch.targets[:, self.positions])


@dataclass(frozen=True)
class StagePlace:
    """Where a stage stands in the chain of blocks: [start, stop) of ``total``."""

    stage: int
    start: int
    stop: int
    total: int

    @property
    def is_first(self) -> bool:
        return self.start == 0

    @property
    def is_last(self) -> bool:
        return self.stop == self.total


class StageProgram(Protocol):
    """What the interpreter needs of a stage. One thread calls it.

    ``uses_data`` tells whether micro-batches are loaded for it, ``tokens`` which of their
    tokens this rank has.
    """

    place: StagePlace
    uses_data: bool
    tokens: TokenShare

    def new_input(self) -> Tensor:
        """A buffer for the boundary activation of one micro-batch."""

    def new_output_gradient(self) -> Tensor:
        """A buffer for the gradient of the outgoing boundary of one micro-batch."""

    def forward(
        self, microbatch: int, blocks: Blocks, received: Tensor | None, batch: MicroBatch | None
    ) -> Tensor:
        """Run a block range; returns its output, contiguous.

        ``received`` is the boundary activation, given at the first block of a stage that
        is not the first; ``batch`` is given to the first and the last stage.
        """

    def backward(self, microbatch: int, blocks: Blocks, received: Tensor | None) -> Tensor | None:
        """Run a range backwards; returns the gradient of its input, None at the model's start.

        ``received`` is the gradient of the outgoing boundary, given at the last block of a
        stage that is not the last. Frees the activations of the range.
        """

    def input_gradient(
        self, microbatch: int, blocks: Blocks, received: Tensor | None
    ) -> Tensor | None:
        """The part of :meth:`backward` that the stages above wait for; keeps activations."""

    def weight_gradient(self, microbatch: int, blocks: Blocks) -> None:
        """The rest of it: add to the weights' gradients. Frees the activations of the range."""

    def evaluate(self, blocks: Blocks, received: Tensor | None, batch: MicroBatch | None) -> Tensor:
        """Forward of a range without keeping anything; the last one returns the mean loss of
        its tokens.

        ``received`` is the output of the range before, None at the model's start.
        """

    def take_loss(self) -> float | None:
        """The sum of the losses since the last call; None where no loss is computed."""


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

    Args:
        blocks: the modules of blocks [place.start, place.stop).
        loss: of the last block's output and the targets; a mean over the micro-batch.
        loss_divisor: samples of the step over those of this rank's micro-batch: whatever the
            shares, gradients sum to those of the mean over all tokens.
        recompute: keep only block inputs and run each block again before its backward
            (with the random numbers of the first time).
        autocast: makes the context in which blocks run forward.
        apart: micro-batches keep documents apart, so every stage needs them.
        tokens: this rank's part of each sample.
        evaluating: makes a context around each evaluation.
        scale: multiplies the loss that backward starts from.
    """

    def __init__(
        self,
        place: StagePlace,
        blocks: Sequence[nn.Module],
        loss: LossFunction,
        loss_divisor: float,
        boundary: Tensor,
        *,
        recompute: bool = False,
        autocast: Autocast = nullcontext,
        apart: bool = False,
        tokens: TokenShare | None = None,
        evaluating: Autocast = nullcontext,
        scale: LossScale | None = None,
    ) -> None:
        assert len(blocks) == place.stop - place.start
        self.place = place
        self.uses_data = place.is_first or place.is_last or apart
        self._blocks = dict(enumerate(blocks, place.start))
        self._loss = loss
        self._divisor = loss_divisor
        self._boundary = boundary
        self._recompute = recompute
        self._autocast = autocast
        self.tokens = tokens or TokenShare()
        self._evaluating = evaluating
        self._scale = scale or LossScale()
        self._kept: dict[tuple[int, int], _Kept] = {}
        self._waiting: dict[tuple[int, int], list[WeightPart]] = {}
        self._between: dict[int, Tensor] = {}
        self._losses: list[Tensor] = []

    def new_input(self) -> Tensor:
        return torch.empty_like(self._boundary)

    def new_output_gradient(self) -> Tensor:
        return torch.empty_like(self._boundary)

    def forward(
        self, microbatch: int, blocks: Blocks, received: Tensor | None, batch: MicroBatch | None
    ) -> Tensor:
        batch = self.tokens.of(batch)
        x = self._range_input(microbatch, blocks, received, batch)
        for index in range(*blocks):
            if x.is_floating_point():
                x = x.detach().requires_grad_()
            rng = _rng_state(x.device) if self._recompute else None
            with torch.set_grad_enabled(not self._recompute):
                output = self._run(index, x, batch)
            kept = None if self._recompute else output
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
            torch.autograd.backward(self._output(index, kept), gradient)
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
        with self._evaluating(), self._autocast():
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
        return total / self._scale.value

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
        with self._autocast():
            output = _through(self._blocks[index], x, batch)
        if batch is not None and self._is_loss(index):
            output = self._loss_of(output, batch) * self.tokens.weight / self._divisor
            if self._scale.value != 1.0:
                output = output * self._scale.value
        return output

    def _loss_of(self, output: Tensor, batch: MicroBatch) -> Tensor:
        loss = self._loss(output, batch.targets)
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
        if self._boundary.is_cuda:
            torch.cuda.current_stream(self._boundary.device).synchronize()


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
