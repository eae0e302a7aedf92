"""A virtual device: the rank sleeps as long as an accelerator would compute.

The network carries the real bytes; only the network part of such a run is measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from holmes.runtime import collectives
from holmes.runtime.communicator import Communicator
from holmes.runtime.pipeline.stage import Blocks, MicroBatch, StagePlace, TokenShare
from holmes.runtime.sharding.optimizer import Outcome
from holmes.schedule.instruction import Bucket

SPIN_SECONDS = 0.0002


class BlockSeconds(NamedTuple):
    """Of one micro-batch; ``backward`` has both parts, of which ``weight`` is the weights'."""

    forward: float
    backward: float
    weight: float


def sleep(seconds: float) -> None:
    """Return ``seconds`` from now: asleep, then awake for at most the last 0.2 ms."""
    until = time.monotonic() + seconds
    if seconds > SPIN_SECONDS:
        time.sleep(seconds - SPIN_SECONDS)
    while time.monotonic() < until:
        pass


class VirtualStage:
    """A stage whose blocks take given times.

    Args:
        seconds: of each block; the backward time includes recomputation where the plan
            has it.
        input_bytes, output_bytes: boundary sizes of one micro-batch.
    """

    uses_data = False
    tokens = TokenShare()

    def __init__(
        self,
        place: StagePlace,
        seconds: Mapping[int, BlockSeconds],
        input_bytes: int,
        output_bytes: int,
    ) -> None:
        self.place = place
        self._seconds = seconds
        self._input = torch.zeros(input_bytes, dtype=torch.uint8)
        self._output = torch.zeros(output_bytes, dtype=torch.uint8)

    def new_input(self) -> Tensor:
        return torch.empty_like(self._input)

    def new_output_gradient(self) -> Tensor:
        return torch.empty_like(self._output)

    def forward(
        self, microbatch: int, blocks: Blocks, received: Tensor | None, batch: MicroBatch | None
    ) -> Tensor:
        sleep(sum(self._seconds[index].forward for index in range(*blocks)))
        return self._output

    def backward(self, microbatch: int, blocks: Blocks, received: Tensor | None) -> Tensor | None:
        sleep(sum(self._seconds[index].backward for index in range(*blocks)))
        return self._gradient(blocks)

    def input_gradient(
        self, microbatch: int, blocks: Blocks, received: Tensor | None
    ) -> Tensor | None:
        mine = [self._seconds[index] for index in range(*blocks)]
        sleep(sum(block.backward - block.weight for block in mine))
        return self._gradient(blocks)

    def weight_gradient(self, microbatch: int, blocks: Blocks) -> None:
        sleep(sum(self._seconds[index].weight for index in range(*blocks)))

    def _gradient(self, blocks: Blocks) -> Tensor | None:
        return None if self.place.is_first and blocks[0] == self.place.start else self._input

    def evaluate(self, received: Tensor | None, batch: MicroBatch | None) -> Tensor:
        sleep(sum(block.forward for block in self._seconds.values()))
        return torch.zeros(()) if self.place.is_last else self._output

    def take_loss(self) -> float | None:
        return None


class VirtualOptimizer:
    """Moves the bytes of every bucket; the numbers in them mean nothing.

    The sums of a reduce-scatter are left out: an accelerator does them, and here they
    would cost the processor that the ranks share.

    Args:
        buckets: of the stage.
        members: size of the data group.
        seconds_per_element: of the update of one parameter.
        gradient_bytes, parameter_bytes: of one element on the wire.
    """

    def __init__(
        self,
        buckets: tuple[Bucket, ...],
        members: int,
        seconds_per_element: float,
        *,
        gradient_bytes: int,
        parameter_bytes: int,
    ) -> None:
        chunks = {bucket.index: -(-bucket.elements // members) for bucket in buckets}
        tied = {b.index: b.tied_elements or b.elements for b in buckets if b.tied}
        self._gradients = {i: chunk * members * gradient_bytes for i, chunk in chunks.items()}
        self._parameters = {i: chunk * members * parameter_bytes for i, chunk in chunks.items()}
        self._tied = {i: elements * gradient_bytes for i, elements in tied.items()}
        sizes = (*self._gradients.values(), *self._parameters.values(), *self._tied.values())
        longest = max(sizes, default=0)
        self._flat = torch.zeros(longest, dtype=torch.uint8)
        self._scratch = torch.zeros_like(self._flat)
        self._weight = torch.zeros(max(self._tied.values(), default=0), dtype=torch.uint8)
        self._seconds = seconds_per_element * sum(chunks.values())

    def reduce(self, bucket: int, comm: Communicator) -> None:
        collectives.exchange(comm, self._flat[: self._gradients[bucket]], self._scratch)

    def gather(self, bucket: int, comm: Communicator) -> None:
        collectives.all_gather(comm, self._flat[: self._parameters[bucket]])

    def sum_tied(self, bucket: int, comm: Communicator) -> None:
        collectives.all_reduce(comm, self._weight[: self._tied[bucket]])

    def add_squares(self, squares: Tensor) -> None:
        return None

    def step(self, squares: Tensor) -> Outcome:
        sleep(self._seconds)
        return Outcome(0.0, True)
