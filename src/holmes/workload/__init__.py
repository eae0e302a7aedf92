"""What a model costs: a chain of blocks, each with its ordered inner program."""

from holmes.workload.products import AttentionCore, MatrixProduct
from holmes.workload.segments import Collective, Segment, with_sequence_parallelism
from holmes.workload.workload import Block, RecomputeMode, Workload

__all__ = [
    "AttentionCore",
    "Block",
    "Collective",
    "MatrixProduct",
    "RecomputeMode",
    "Segment",
    "Workload",
    "with_sequence_parallelism",
]
