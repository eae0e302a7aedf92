"""Workload: a chain of blocks. Torch-free, serialisable, the planner's view of a model.

All counts are for the unsharded block. FLOPs and bytes are per sample (one
sequence); parameters are elements. Collectives name the axis they run on and
vanish when that axis has degree one. A pipeline may cut the chain between any two
blocks; what crosses the cut is the ``output_bytes`` of the block before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from holmes.workload.segments import (
    Collective,
    Segment,
    context_collectives,
    expert_collectives,
    with_sequence_parallelism,
)

__all__ = ["Block", "BlockKind", "Collective", "RecomputeMode", "Segment", "Workload"]

BlockKind = Literal["embedding", "transformer", "head"]
RecomputeMode = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class Block:
    """One block of the chain; a pipeline stage is a contiguous range of blocks.

    Attributes:
        activation_bytes: what one sample keeps between forward and backward, by
            recomputation mode (none, selective, full).
        output_bytes: the boundary activation of one sample, what a stage sends on.
        whole_activation_bytes: by mode, the part of ``activation_bytes`` that each tensor
            rank keeps whole without sequence parallelism. Empty: not described.
        working_bytes: most bytes per sample that the block needs for a moment beyond
            what it keeps, split like its products (the logits' gradient, in a head).
        whole_parameters: the part of ``parameters`` that the tensor axis does not divide.
        expert_parameters: the part of ``parameters`` that the expert axis divides.
        dispatched_bytes: tokens of one sample as they are sent to experts, one way, where
            every expert takes as many as every other.
    """

    name: str
    kind: BlockKind
    parameters: int
    tensors: int
    inner: tuple[Segment | Collective, ...]
    activation_bytes: dict[str, float]
    output_bytes: float
    backward_over_forward: float = 2.0
    whole_activation_bytes: dict[str, float] = field(default_factory=dict)
    working_bytes: float = 0.0
    whole_parameters: int = 0
    expert_parameters: int = 0
    dispatched_bytes: float = 0.0

    @cached_property
    def flops_forward(self) -> float:
        """Forward FLOPs of one sample."""
        return sum(part.flops for part in self.inner if isinstance(part, Segment))

    @property
    def flops_backward(self) -> float:
        """Backward FLOPs of one sample, recomputation not included."""
        return self.flops_forward * self.backward_over_forward

    def flops_recomputed(self, recompute: RecomputeMode) -> float:
        """Forward FLOPs of one sample that the backward repeats first.

        A block that keeps as much under full recomputation as without has nothing to repeat.
        """
        if recompute == "full":
            kept = self.activation_bytes
            return self.flops_forward if kept["full"] < kept["none"] else 0.0
        if recompute == "none":
            return 0.0
        return sum(p.flops * p.selective for p in self.inner if isinstance(p, Segment))

    def program(self, sequence_parallel: bool = False) -> tuple[Segment | Collective, ...]:
        """The inner program, with the collectives of the chosen way to split."""
        return with_sequence_parallelism(self.inner) if sequence_parallel else self.inner

    def context_program(self, algorithm: str, tp: int, cp: int) -> tuple[Collective, ...]:
        """Its collectives over ``cp`` context ranks; see :func:`context_collectives`."""
        return context_collectives(self.inner, algorithm, tp, cp)

    def expert_program(self, recompute: RecomputeMode) -> tuple[tuple[Collective, int], ...]:
        """Its exchanges of tokens with experts, and how often a micro-batch has each.

        Full recomputation repeats those of the forward; selective, of attention, none.
        """
        again = recompute == "full" and self.flops_recomputed("full") > 0
        return tuple(
            (part, 2 if again and part.direction == "forward" else 1)
            for part in expert_collectives(self.inner)
        )

    def activation_bytes_on_rank(
        self,
        recompute: RecomputeMode = "none",
        tp: int = 1,
        cp: int = 1,
        sequence_parallel: bool = False,
    ) -> float:
        """What one rank keeps for one sample (Korthikanti et al. 2022, equations 1, 2 and 4)."""
        kept = self.activation_bytes[recompute]
        whole = 0.0 if sequence_parallel else self.whole_activation_bytes.get(recompute, 0.0)
        return (whole + (kept - whole) / tp) / cp

    def parameters_on_rank(self, tp: int = 1, ep: int = 1) -> float:
        """Parameters that one rank holds."""
        split = self.parameters - self.whole_parameters - self.expert_parameters
        return self.whole_parameters + split / tp + self.expert_parameters / (tp * ep)


def exchange_obstacle(heads: int, key_heads: int, ranks: int) -> str | None:
    """Why heads cannot be dealt over ``ranks`` that exchange them for tokens, or None.

    Keys and values of fewer heads than ranks are repeated.
    """
    if heads % ranks:
        return f"{heads} attention heads do not divide over {ranks} context ranks"
    if key_heads % ranks and ranks % key_heads:
        return f"{key_heads} heads of keys and values do not divide over {ranks} context ranks"
    return None


@dataclass(frozen=True)
class Workload:
    """A model as the planner sees it.

    ``tied`` names the pair of blocks that share one weight of ``tied_parameters``
    elements (embedding and head), or is None. The shared weight is counted in
    ``parameters`` of *both* blocks, since each stage holds a copy; use
    :attr:`parameters` for the size of the model.

    ``key_heads`` are the heads of keys and values (0: as many as ``heads``);
    ``compute_bytes`` is the width of an element in matrix products; ``attention`` says
    whether the counts are those of a fused or an unfused core; ``experts`` of a layer, or 0;
    ``head_size`` features of a head (0: ``hidden`` / ``heads``).
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
    key_heads: int = 0
    compute_bytes: int = 4
    attention: Literal["fused", "unfused"] = "fused"
    experts: int = 0
    head_size: int = 0

    @property
    def parameters(self) -> int:
        """Parameters of the model, shared weights counted once."""
        return sum(block.parameters for block in self.blocks) - self.tied_parameters

    def tensor_obstacle(self, tp: int, cp: int = 1) -> str | None:
        """Why ``tp`` tensor ranks cannot split this model, or None.

        The vocabulary may be of any size: its table is padded, and so are the chunks of
        ``cp`` context ranks.
        """
        if self.heads % tp:
            return f"{self.heads} attention heads do not divide over {tp} tensor ranks"
        keys = self.key_heads or self.heads
        if keys % tp and tp % keys:
            return f"{keys} heads of keys and values do not divide over {tp} tensor ranks"
        if cp == 1 and self.sequence % tp:
            return f"a sequence of {self.sequence} tokens does not divide over {tp} tensor ranks"
        for block in self.blocks:
            for part in block.inner:
                if not isinstance(part, Segment):
                    continue
                for product in part.products:
                    if product.tensor == "k" and product.k % tp:
                        return (
                            f"{part.name} has {product.k} inputs, which do not divide "
                            f"over {tp} tensor ranks"
                        )
        return None

    def context_obstacle(self, algorithm: str, tp: int, cp: int) -> str | None:
        """Why ``cp`` context ranks cannot share a sample of this model, or None.

        The sequence need not divide: ranks that have less hold padding.
        """
        if cp == 1:
            return None
        if cp > self.sequence:
            return f"a sequence of {self.sequence} tokens has no token for each of {cp} ranks"
        if algorithm != "ulysses":
            return None
        heads, keys = self.heads // tp, max(1, (self.key_heads or self.heads) // tp)
        return exchange_obstacle(heads, keys, cp)

    def expert_obstacle(self, replicas: int, ep: int) -> str | None:
        """Why groups of ``ep`` of these replicas, over data and context ranks, cannot share the
        experts of a layer, or None."""
        if ep == 1:
            return None
        if not self.experts:
            return f"{self.name} has no experts to divide over {ep} ranks"
        if self.experts % ep:
            return f"{self.experts} experts do not divide over {ep} expert ranks"
        if replicas % ep:
            return f"{replicas} replicas do not divide into groups of {ep} expert ranks"
        return None

    def shared_parameters(self, block: Block, tp: int) -> int:
        """Parameters of a block that several of ``tp`` tensor ranks hold.

        Those that the axis does not divide, and, where there are fewer heads of keys and
        values than ranks, the products that make these (their biases left aside).
        """
        keys = self.key_heads or self.heads
        if keys >= tp or block.kind != "transformer":
            return block.whole_parameters
        size = self.head_size or self.hidden // self.heads
        return block.whole_parameters + 2 * self.hidden * size * keys

    def flops_per_sample(self) -> float:
        """Forward and backward FLOPs of one sample, without recomputation."""
        return sum(block.flops_forward + block.flops_backward for block in self.blocks)

    def flops_recomputed(self, recompute: RecomputeMode) -> float:
        """Forward FLOPs of one sample that recomputation adds."""
        return sum(block.flops_recomputed(recompute) for block in self.blocks)
