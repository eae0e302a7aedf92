"""What the interpreter needs of a pipeline stage, and what it gives to one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

Blocks = tuple[int, int]


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of the first block and targets of the loss, [micro, ...] each.

    ``documents`` numbers the document of every token of the samples, where they are kept
    apart: then all stages need it, and the loss is multiplied with ``weight``.
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
        """Its tokens and targets of a micro-batch of whole samples, with the documents of all."""
        if batch is None or self.positions is None:
            return batch
        mine = self.positions
        return replace(batch, tokens=batch.tokens[:, mine], targets=batch.targets[:, mine])


ALL_TOKENS = TokenShare()


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
