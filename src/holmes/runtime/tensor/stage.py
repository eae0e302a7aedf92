"""A pipeline stage of which this rank computes a tensor share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from holmes.runtime.pipeline.stage import MicroBatch, TorchStage
from holmes.runtime.tensor.axis import TensorAxis


class TensorStage(TorchStage):
    """As :class:`TorchStage`; boundaries hold this rank's tokens.

    All tensor ranks compute the same loss, so the first alone reports it.
    """

    def __init__(self, *arguments: Any, axis: TensorAxis, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._axis = axis

    def evaluate(self, received: Tensor | None, batch: MicroBatch | None) -> Tensor:
        with self._axis.uncounted():
            return super().evaluate(received, batch)

    def take_loss(self) -> float | None:
        loss = super().take_loss()
        return loss if self._axis.index == 0 else None
