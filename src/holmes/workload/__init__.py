"""What a model costs: a chain of blocks, each with its ordered inner program."""

from holmes.workload.workload import Block, Collective, Segment, Workload

__all__ = ["Block", "Collective", "Segment", "Workload"]
