"""The backward of a block in its two parts: gradient of the input, gradients of the weights."""

from __future__ import annotations

from holmes.cost.calibration import BlockTime
from holmes.workload.workload import Block, Segment


def weight_share(block: Block) -> float:
    """The weights' part of the backward FLOPs, recomputation left out.

    A product with a weight costs its forward FLOPs once for each part (Qi et al. 2023,
    table 1); the attention core belongs to the input part alone, the embedding has no
    other part than its weights.
    """
    if block.kind == "embedding":
        return 1.0
    with_weights = sum(
        part.flops for part in block.inner if isinstance(part, Segment) and part.attention is None
    )
    return with_weights / block.flops_backward if block.flops_backward else 0.0


def weight_seconds(block: Block, plain: BlockTime) -> float:
    """Seconds of the weights' part, from the block's time without recomputation: as measured,
    else by its share of the work."""
    if plain.weight is not None:
        return plain.weight
    return plain.backward * min(1.0, weight_share(block))
