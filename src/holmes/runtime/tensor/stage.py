"""A pipeline stage of which this rank computes a tensor share."""

from __future__ import annotations

from torch import Tensor

from holmes.runtime.pipeline.program import Blocks, MicroBatch
from holmes.runtime.pipeline.stage import StageSpec, TorchStage
from holmes.runtime.tensor.axis import TensorAxis


class TensorStage(TorchStage):
    """As :class:`TorchStage`; boundaries hold this rank's tokens.

    All tensor ranks compute the same loss, so the first alone reports it.

    Args:
        whole: pass all tokens on, and take this rank's out of all that arrive.
    """

    def __init__(self, spec: StageSpec, axis: TensorAxis, *, whole: bool = False) -> None:
        super().__init__(spec)
        self._axis = axis
        self._whole = whole

    def _passed_on(self, boundary: Tensor) -> Tensor:
        passed = super()._passed_on(boundary)
        return self._axis.gather_tokens(passed).contiguous() if self._whole else passed

    def _taken(self, received: Tensor | None) -> Tensor | None:
        taken = super()._taken(received)
        if taken is None or not self._whole:
            return taken
        return self._axis.own_tokens(taken, dim=1).contiguous()

    def evaluate(self, blocks: Blocks, received: Tensor | None, batch: MicroBatch | None) -> Tensor:
        with self._axis.uncounted():
            return super().evaluate(blocks, received, batch)

    def take_loss(self) -> float | None:
        loss = super().take_loss()
        return loss if self._axis.index == 0 else None
