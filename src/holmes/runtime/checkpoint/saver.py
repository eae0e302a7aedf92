"""Saves of a run, one at a time, in the background of training.

Training stands still for the copy into host memory. A thread then takes checksums,
writes, and agrees with the threads of the other ranks over a store of their own; nothing
of that touches training's groups. Training asks between steps how a save went.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holmes.errors import RankDiedError
from holmes.runtime.checkpoint.agreement import Conversation, Members
from holmes.runtime.checkpoint.folders import Keep
from holmes.runtime.checkpoint.shard import Shard, Snapshot, on_host
from holmes.runtime.checkpoint.write import Committed, OnPhase, Save, no_phase, write_checkpoint

Maximum = Callable[..., tuple[float, ...]]
"""Of each value over all ranks; what training uses between steps, called by all of them."""
ABANDON_SECONDS = 2.0


@dataclass(frozen=True)
class SaverOptions:
    """How a run saves.

    Attributes:
        on_commit: told of each checkpoint that counts, on the thread that trains.
        on_phase: told the phase a save is in (:data:`write.PHASES`), on the thread that saves.
        generation: of these ranks, see ``fence``.
    """

    keep: Keep = field(default_factory=Keep)
    asynchronous: bool = True
    on_commit: Callable[[Committed], None] = lambda committed: None
    on_phase: OnPhase = no_phase
    generation: int = 0


class Saver:
    """The saves of one rank; every rank has one and calls it at the same steps.

    A context manager: leaving it waits for the last save, unless an error goes through.

    Args:
        run: the run folder.
        maximum: agrees between steps, on the thread that trains.
    """

    def __init__(
        self, run: Path, members: Members, maximum: Maximum, options: SaverOptions
    ) -> None:
        self._run = run
        self._members = members
        self._maximum = maximum
        self._options = options
        self._snapshot = Snapshot()
        self._running: _Running | None = None
        self._count = 0
        self.last: Committed | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.finish()
        elif self._running is not None:
            self._running.join(ABANDON_SECONDS)

    def begin(self, step: int, shards: Mapping[str, Shard], meta: Mapping[str, Any]) -> None:
        """Save the state before step ``step``; an earlier save is waited for first.

        Returns once training may change the tensors again. Without ``asynchronous`` that
        is when the checkpoint counts.

        Raises:
            WriteError, RankDiedError: on every rank, when this save or the one before was
                not written, or a rank was not heard of.
        """
        self.finish()
        start = time.monotonic()
        self._options.on_phase("copy")
        take = self._snapshot.take if self._options.asynchronous else on_host
        held = take(shards)
        copied = time.monotonic() - start
        options = self._options
        save = Save(self._run, step, held, meta, options.keep, copied, options.generation)
        self._count += 1
        talk = Conversation(self._members, str(self._count))
        self._running = _Running(save, talk, self._options.on_phase)
        if not self._options.asynchronous:
            self.finish()

    def collect(self) -> None:
        """Learn between steps how a save went; does nothing when none is under way.

        Raises:
            WriteError, RankDiedError: on every rank, when it failed on one of them.
        """
        if self._running is not None:
            self._settle(float(self._running.busy))

    def finish(self) -> None:
        """Wait for the save that is under way.

        Raises:
            WriteError, RankDiedError: on every rank, when it failed on one of them.
        """
        if self._running is not None:
            self._running.join()
            self._settle(0.0)

    def _settle(self, busy: float) -> None:
        """All ranks see the end of a save between the same two steps, or none of them."""
        running = self._running
        assert running is not None
        problem = None if busy else running.problem
        anybody_busy, anybody_failed = self._maximum(busy, float(problem is not None))
        if anybody_failed:
            self._running = None
            running.join()  # the others are told in their threads; this one hears it, too
            raise (
                running.problem
                or problem
                or RankDiedError(  # what a rank failed to write is told to all of them
                    "another rank did not hear how a save ended",
                    next_step="its log says more; the checkpoint may be committed nevertheless",
                )
            )
        if not anybody_busy:
            self._running = None
            assert running.result is not None
            self.last = running.result
            self._options.on_commit(running.result)


class _Running:
    """One save under way on a thread of its own."""

    def __init__(self, save: Save, talk: Conversation, on_phase: OnPhase) -> None:
        self.problem: BaseException | None = None
        self.result: Committed | None = None
        self._thread = threading.Thread(
            target=self._run, args=(save, talk, on_phase), name="checkpoint", daemon=True
        )
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float | None = None) -> None:
        self._thread.join(seconds)

    def _run(self, save: Save, talk: Conversation, on_phase: OnPhase) -> None:
        try:
            self.result = write_checkpoint(save, talk, on_phase)
        except BaseException as error:
            self.problem = error
