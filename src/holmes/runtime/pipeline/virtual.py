"""A virtual device: the rank sleeps as long as an accelerator would compute.

The network carries the real bytes; only the network part of such a run is measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from holmes.runtime import collectives
from holmes.runtime.communicator import Communicator
from holmes.runtime.pipeline.program import ALL_TOKENS, Blocks, MicroBatch, StagePlace
from holmes.runtime.sharding.optimizer import Outcome
from holmes.schedule.instruction import COLLECTIVE_OPS, Instruction, Op

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
    tokens = ALL_TOKENS

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

    def evaluate(self, blocks: Blocks, received: Tensor | None, batch: MicroBatch | None) -> Tensor:
        sleep(sum(self._seconds[index].forward for index in range(*blocks)))
        return torch.zeros(()) if blocks[1] == self.place.total else self._output

    def take_loss(self) -> float | None:
        return None


class VirtualOptimizer:
    """Moves the bytes of every bucket; the numbers in them mean nothing.

    The sums of a reduce-scatter are left out: an accelerator does them, and here they
    would cost the processor that the ranks share.

    Args:
        instructions: of this rank; each collective moves the bytes that stand there.
        members: the most that a group has.
        step_seconds: of the optimiser's update.
    """

    def __init__(
        self, instructions: Sequence[Instruction], members: int, step_seconds: float
    ) -> None:
        self._moves = {
            self._key(ins.buffer): (ins.op, ins.bytes)
            for ins in instructions
            if ins.op in COLLECTIVE_OPS and ins.buffer != "norms"
        }
        longest = max((size for _, size in self._moves.values()), default=0)
        self._flat = torch.zeros(longest + members, dtype=torch.uint8)  # chunks round up
        self._scratch = torch.zeros_like(self._flat)
        self._seconds = step_seconds

    def gather(self, bucket: int, comm: Communicator) -> None:
        self._move("weights", bucket, comm)

    def reduce(self, bucket: int, comm: Communicator) -> None:
        self._move("gradients", bucket, comm)

    def across(self, bucket: int, comm: Communicator) -> None:
        self._move("sums", bucket, comm)

    def refresh(self, bucket: int, comm: Communicator, *, part: bool) -> None:
        self._move("part" if part else "parameters", bucket, comm)

    def sum_tied(self, bucket: int, comm: Communicator) -> None:
        self._move("tied", bucket, comm)

    def open(self, buckets: Sequence[int]) -> None:
        return None

    def free(self, buckets: Sequence[int]) -> None:
        return None

    def _move(self, kind: str, bucket: int, comm: Communicator) -> None:
        op, size = self._moves[kind, bucket]
        flat = self._flat[: -(-size // comm.size) * comm.size]
        if op is Op.REDUCE_SCATTER:
            collectives.exchange(comm, flat, self._scratch)
        elif op is Op.ALL_GATHER:
            collectives.all_gather(comm, flat)
        else:
            collectives.all_reduce(comm, flat)

    @staticmethod
    def _key(buffer: str) -> tuple[str, int]:
        words = buffer.split(".")
        return words[0], int(words[-1])

    def add_squares(self, squares: Tensor) -> None:
        return None

    def step(self, squares: Tensor) -> Outcome:
        sleep(self._seconds)
        return Outcome(0.0, True)
