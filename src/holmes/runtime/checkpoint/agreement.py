"""What ranks tell each other about one save, over a store, away from training's groups."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import HashStore, Store

from holmes.errors import RankDiedError

SLOWEST_BYTES_PER_SECOND = 20e6
"""A disk slower than this counts as stuck."""


@dataclass(frozen=True)
class Members:
    """The ranks that save together.

    Attributes:
        store: of their own, so that a wait here never holds up somebody else's; one
            process alone needs none.
        patience_seconds: the longest wait for a word, beyond the time that writing may take.
    """

    rank: int = 0
    world: int = 1
    store: Store | None = None
    patience_seconds: float = 60.0


class Conversation:
    """The messages of one save. Every message is written once and read by who needs it.

    Args:
        name: different for every save of a run.
    """

    def __init__(self, members: Members, name: str) -> None:
        self.rank, self.world = members.rank, members.world
        self._patience = members.patience_seconds
        self._store = members.store or HashStore()
        self._prefix = f"checkpoint/{name}"

    def allow(self, bytes_: int) -> None:
        """Wait longer from here on, because so many bytes are being written."""
        self._patience += bytes_ / SLOWEST_BYTES_PER_SECOND

    def tell(self, topic: str, value: dict[str, Any]) -> None:
        """Say something to whoever hears this rank on the topic."""
        self._store.set(self._key(topic, self.rank), json.dumps(value))

    def hear(self, topic: str, rank: int) -> dict[str, Any]:
        """What a rank said.

        Raises:
            RankDiedError: it said nothing in time.
        """
        key = self._key(topic, rank)
        try:
            self._store.wait([key], timedelta(seconds=self._patience))
            value: dict[str, Any] = json.loads(self._store.get(key))
        except RuntimeError as error:
            raise RankDiedError(
                f"the checkpoint was not written: no word from rank {rank} ({topic})",
                where=f"rank {self.rank}",
                why=str(error).strip().splitlines()[0],
                next_step="see the log of that rank; older checkpoints are untouched",
            ) from None
        return value

    def hear_all(self, topic: str) -> list[dict[str, Any]]:
        """What all ranks said, in rank order.

        Raises:
            RankDiedError: one of them said nothing in time.
        """
        return [self.hear(topic, rank) for rank in range(self.world)]

    def forget(self, topics: tuple[str, ...]) -> None:
        """Delete what was said, once nobody reads it any more."""
        for topic in topics:
            for rank in range(self.world):
                self._store.delete_key(self._key(topic, rank))

    def _key(self, topic: str, rank: int) -> str:
        return f"{self._prefix}/{topic}/{rank}"
