"""Lanes: one worker thread each, running its communications one after the other.

The main thread walks a rank's list; it runs what computes and hands the rest to the
lanes. Both sides wait for the instructions that theirs depend on through one
:class:`Completion`, which also carries the first failure to everybody.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch

from holmes.errors import RankDiedError
from holmes.runtime.communicator import Communicator
from holmes.schedule.instruction import Instruction

Execute = Callable[[Instruction], None]


class Completion:
    """Which instructions of the current step are complete, and the first failure."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._done: set[int] = set()
        self._failure: BaseException | None = None

    def reset(self) -> None:
        """Begin a step: nothing is complete."""
        with self._changed:
            self._done.clear()

    def finish(self, instruction: int) -> None:
        """Mark an instruction as complete."""
        with self._changed:
            self._done.add(instruction)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Wake everybody; the first failure is the one that is raised."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def wait(self, instructions: Iterable[int]) -> None:
        """Return when all of them are complete; raise the failure as soon as there is one."""
        wanted = set(instructions)
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or wanted <= self._done)
            if self._failure is not None:
                raise self._failure


class Lanes:
    """The worker threads of one rank, one per communicator that its list uses."""

    def __init__(
        self,
        communicators: dict[str, Communicator],
        execute: Execute,
        completion: Completion,
        device: torch.device,
    ) -> None:
        self._queues: dict[str, queue.SimpleQueue[Instruction | None]] = {}
        self._threads: list[threading.Thread] = []
        for lane, comm in communicators.items():
            waiting: queue.SimpleQueue[Instruction | None] = queue.SimpleQueue()
            worker = _Worker(comm, waiting, execute, completion, device)
            thread = threading.Thread(target=worker.run, name=lane, daemon=True)
            thread.start()
            self._queues[lane] = waiting
            self._threads.append(thread)

    def submit(self, instruction: Instruction) -> None:
        """Hand an instruction to its lane."""
        self._queues[instruction.lane].put(instruction)

    def close(self, seconds: float = 1.0) -> None:
        """Let the workers end. One that is stuck in a dead transfer is left to its timeout."""
        for waiting in self._queues.values():
            waiting.put(None)
        for thread in self._threads:
            thread.join(seconds)


class _Worker:
    """The loop of one lane."""

    def __init__(
        self,
        comm: Communicator,
        waiting: queue.SimpleQueue[Instruction | None],
        execute: Execute,
        completion: Completion,
        device: torch.device,
    ) -> None:
        self._comm = comm
        self._waiting = waiting
        self._execute = execute
        self._completion = completion
        self._device = device

    def run(self) -> None:
        with torch.no_grad(), own_stream(self._device):
            while (instruction := self._waiting.get()) is not None:
                try:
                    self._completion.wait(instruction.waits)
                except BaseException:
                    return  # another lane or the main thread failed and has been heard
                try:
                    self._execute(instruction)
                except BaseException as error:
                    self._completion.fail(_named(error, instruction, self._comm))
                    return
                self._completion.finish(instruction.id)


def own_stream(device: torch.device) -> AbstractContextManager[object]:
    """On CUDA a stream of its own for the calling thread; elsewhere nothing."""
    if device.type != "cuda":
        return nullcontext()
    torch.cuda.set_device(device)
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _named(error: BaseException, instruction: Instruction, comm: Communicator) -> BaseException:
    """The failure of an instruction, with its lane and the ranks at the other end."""
    place = f"rank {comm.ranks[comm.index]}, lane {instruction.lane}, {comm}"
    if not isinstance(error, RuntimeError | TimeoutError):
        error.add_note(f"in {instruction.op} {instruction.id}, {place}")
        return error
    peers = [instruction.partner] if instruction.peer else list(comm.others)
    micro = "" if instruction.microbatch is None else f", micro-batch {instruction.microbatch}"
    named = RankDiedError(
        f"no answer from rank{'s' if len(peers) > 1 else ''} {', '.join(map(str, peers))} "
        f"in {instruction.op} {instruction.id} ({instruction.buffer}{micro})",
        where=place,
        why=(str(error).strip() or repr(error)).splitlines()[0],
        next_step="see which rank ended first; `holmes train --resume` continues from the last "
        "checkpoint",
    )
    named.__cause__ = error
    return named
