"""Communicator: one process group as one of its members sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from torch.distributed import ProcessGroup

from holmes.runtime.monitor.meter import Meter

Backend = Literal["gloo", "nccl"]


@dataclass(frozen=True)
class Communicator:
    """A process group of the Plan, or one direction of a pipeline pair.

    Attributes:
        name: name in the Plan, with ``.down`` or ``.up`` for pipeline pairs.
        ranks: logical ranks of the members, ascending.
        index: position of this rank among them.
        network: what carries it, for messages (``roce on roce0``).
        timeout: the longest that one operation may take.
        meter: when the parts of direct exchanges arrived, by peer.
    """

    name: str
    ranks: tuple[int, ...]
    index: int
    network: str
    backend: Backend
    timeout: timedelta
    process_group: ProcessGroup
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)

    @property
    def size(self) -> int:
        return len(self.ranks)

    @property
    def others(self) -> tuple[int, ...]:
        """Logical ranks of the other members."""
        return tuple(rank for i, rank in enumerate(self.ranks) if i != self.index)

    def index_of(self, rank: int) -> int:
        """Position of a logical rank in the group."""
        return self.ranks.index(rank)

    def __str__(self) -> str:
        return f"group {self.name}, ranks {list(self.ranks)}, {self.network}"
