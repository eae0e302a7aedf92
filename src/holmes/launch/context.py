"""RankContext: what a task that runs on every rank is told about its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Report = Callable[[Mapping[str, Any]], None]


def _ignore(_: Mapping[str, Any]) -> None:
    return None


@dataclass(frozen=True)
class RankContext:
    """Where this process stands among the processes of one task.

    ``rank`` is the *launch* rank (the seat), never the logical rank: that is
    ``plan.rank_map.index(device index)``. The rendezvous store listens at
    ``master_address:master_port`` in the process whose ``hosts_store`` is true;
    where no process has it (torchrun's agent keeps the store) all connect.
    ``attempt`` counts restarts by the launcher, so that keys of an earlier try
    in the same store are not mistaken for this one's.
    """

    rank: int
    world_size: int
    local_rank: int
    node_name: str | None
    master_address: str
    master_port: int
    hosts_store: bool
    attempt: int = 0
    _send: Report = field(default=_ignore, repr=False, compare=False)

    def report(self, value: Mapping[str, Any]) -> None:
        """Tell the caller how far this rank is; JSON values only. Any thread may call it."""
        self._send(value)
