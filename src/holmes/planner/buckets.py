"""Gradient buckets of a stage: contiguous ranges of blocks that are reduced together."""

from __future__ import annotations

from holmes.schedule.instruction import Bucket
from holmes.workload.workload import Workload

BUCKETS_PER_STAGE = 6
"""Enough that all but the last bucket hide under backward, few enough that latency stays small."""


def buckets_of(
    workload: Workload,
    blocks: tuple[int, int],
    *,
    whole_model: bool,
    bucket_mb: float | None = None,
    by_block: bool = False,
    ep: int = 1,
) -> tuple[Bucket, ...]:
    """The buckets of a range of blocks, in model order.

    Blocks are never split. Ranges are closed from the last block backwards, the
    order in which gradients appear, so that what is left for the first range,
    the one nothing hides, is the smallest. A block with a shared weight is
    alone and marked tied, unless both ends of the tie are on this stage
    (``whole_model``): then the weight counts once, in the first of the two.

    Args:
        bucket_mb: target size in MB (10^6 bytes) of gradients; None aims at
            :data:`BUCKETS_PER_STAGE` buckets.
        by_block: unless a size is given, one bucket a block: what is gathered or reduced for
            every micro-batch is held whole for as short as possible.
        ep: ranks that share the experts; above 1 these are counted apart.
    """
    start, stop = blocks
    each = [block.expert_parameters if ep > 1 else 0 for block in workload.blocks]
    dense = {b: _elements(workload, b, whole_model) - each[b] for b in range(start, stop)}
    sizes = {block: dense[block] + each[block] // ep for block in dense}
    target = 0.0 if by_block else sum(sizes.values()) / BUCKETS_PER_STAGE
    if bucket_mb is not None:
        target = bucket_mb * 1e6 / workload.gradient_bytes
    tied = () if whole_model or workload.tied is None else workload.tied
    ranges: list[tuple[int, int]] = []
    end, held = stop, 0
    for block in range(stop - 1, start - 1, -1):
        held += sizes[block]
        if held >= target or block == start or block in tied or block - 1 in tied:
            ranges.append((block, end))
            end, held = block, 0
    return tuple(
        Bucket(
            index=index,
            blocks=found,
            elements=sum(dense[block] for block in range(*found)),
            tied=found[0] in tied,
            tied_elements=workload.tied_parameters if found[0] in tied else 0,
            expert_elements=sum(each[block] // ep for block in range(*found)),
        )
        for index, found in enumerate(reversed(ranges))
    )


def _elements(workload: Workload, block: int, whole_model: bool) -> int:
    shared_here = whole_model and workload.tied is not None and block == workload.tied[1]
    return workload.blocks[block].parameters - (workload.tied_parameters if shared_here else 0)
