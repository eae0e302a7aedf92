"""Workload: a chain of blocks. Torch-free, serialisable, the planner's view of a model.

All counts are for the unsharded block. FLOPs and bytes are per sample (one
sequence); parameters are elements. Collectives name the axis they run on and
vanish when that axis has degree one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

BlockKind = Literal["embedding", "transformer", "head"]


@dataclass(frozen=True)
class Segment:
    """A stretch of computing inside a block.

    ``flops`` are forward FLOPs per sample (multiply and add count as two).
    ``bytes_`` are bytes read and written from device memory per sample.
    ``split`` tells which axes divide the work.
    """

    name: str
    flops: float
    bytes_: float
    split: tuple[str, ...] = ("tensor",)


@dataclass(frozen=True)
class Collective:
    """A collective inside a block: ``bytes_`` per sample at full (unsharded) size."""

    op: Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "ring"]
    axis: Literal["tensor", "context", "expert"]
    bytes_: float
    direction: Literal["forward", "backward"]


@dataclass(frozen=True)
class Block:
    """One block of the chain; a pipeline stage is a contiguous range of blocks.

    ``activation_bytes`` is what one sample keeps between forward and backward,
    by recomputation mode (none, selective, full). ``output_bytes`` is the
    boundary activation of one sample, what a stage sends on.
    """

    name: str
    kind: BlockKind
    parameters: int
    tensors: int
    inner: tuple[Segment | Collective, ...]
    activation_bytes: dict[str, float]
    output_bytes: float
    backward_over_forward: float = 2.0

    @cached_property
    def flops_forward(self) -> float:
        """Forward FLOPs of one sample."""
        return sum(part.flops for part in self.inner if isinstance(part, Segment))

    @property
    def flops_backward(self) -> float:
        """Backward FLOPs of one sample, recomputation not included."""
        return self.flops_forward * self.backward_over_forward


@dataclass(frozen=True)
class Workload:
    """A model as the planner sees it.

    ``tied`` names the pair of blocks that share one weight of ``tied_parameters``
    elements (embedding and head), or is None. The shared weight is counted in
    ``parameters`` of *both* blocks, since each stage holds a copy; use
    :attr:`parameters` for the size of the model.
    """

    name: str
    family: str
    sequence: int
    hidden: int
    heads: int
    vocabulary: int
    blocks: tuple[Block, ...]
    parameter_bytes: int = 4
    gradient_bytes: int = 4
    optimizer_bytes: int = 8
    tied: tuple[int, int] | None = None
    tied_parameters: int = 0

    @property
    def parameters(self) -> int:
        """Parameters of the model, shared weights counted once."""
        return sum(block.parameters for block in self.blocks) - self.tied_parameters

    def flops_per_sample(self) -> float:
        """Forward and backward FLOPs of one sample, without recomputation."""
        return sum(block.flops_forward + block.flops_backward for block in self.blocks)
