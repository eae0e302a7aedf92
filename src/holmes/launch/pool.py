"""Pool: ranks that stay warm between tasks and can be replaced in milliseconds.

    with Pool(4, log_dir=folder) as pool:
        results = pool.run("package.module:function", {"steps": 3}, deadline_seconds=60)

Each rank calls ``function(context, **args)`` and answers with a JSON-able dict.
After any failure all ranks of the task are replaced: an exception in the middle
of a collective leaves threads and sockets that no later task should inherit.
"""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from holmes.errors import ConfigError, HolmesError, RankDiedError
from holmes.launch.failures import (
    RankKilledError,
    RankSilentError,
    StalledError,
    Standing,
    carried,
)
from holmes.launch.forker import Forker, Member, Seat
from holmes.launch.process import state_of
from holmes.launch.watch import Deadlines, Guard, Watch
from holmes.launch.wire import Channel, Message

Args = Mapping[str, Any]
OnProgress = Callable[[int, Mapping[str, Any]], None]
T = TypeVar("T")
LOOPBACK = "127.0.0.1"
ANSWER_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 600.0
STACK_SECONDS = 0.3


class Pool:
    """``size`` seats; the ranks in them are forked from one warm zygote.

    Args:
        size: number of seats. A seat is a launch rank: in a rehearsal seat i is
            device i of the site.
        enter: per seat, the namespace files of its host (``/proc/<pid>/ns/user``
            first where there is one, then ``.../net``); None leaves all on loopback.
        environment: variables, one mapping for all or one per seat.
        addresses: per seat, where the other ranks reach it; loopback when left out.
        log_dir: gets ``rank-<n>.log`` and ``zygote.log``.
        threads: tensor threads per rank.
        forker: one that the caller has launched already; the pool owns it from here.
    """

    def __init__(
        self,
        size: int,
        *,
        enter: Sequence[Sequence[str]] | None = None,
        environment: Sequence[Mapping[str, str]] | Mapping[str, str] | None = None,
        addresses: Sequence[str] | None = None,
        log_dir: Path,
        threads: int = 1,
        forker: Forker | None = None,
    ) -> None:
        self.size = size
        self.log_dir = Path(log_dir).absolute()
        self._enter = _per_seat("enter", enter, size, ())
        self._addresses = _per_seat("addresses", addresses, size, LOOPBACK)
        common = environment if isinstance(environment, Mapping) else {}
        listed = None if isinstance(environment, Mapping) else environment
        self._environment = _per_seat("environment", listed, size, common)
        self._threads = threads
        self._forker = forker or Forker(self.log_dir / "zygote.log")
        self._started = False
        self._members: dict[int, Member] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the living ranks, by seat. A failure replaces ranks, so call
        :meth:`start` and read this again before a run that needs CPU quotas."""
        return tuple(self._members[seat].pid for seat in sorted(self._members))

    @property
    def warm(self) -> bool:
        """Whether ranks can be started without importing torch again."""
        return self._started and self._forker.alive

    def start(self, seats: Sequence[int] | None = None) -> None:
        """Fill the empty ones of these seats (of all); :meth:`run` does it for those it uses.

        Raises:
            UnavailableError: torch is missing or a host cannot be entered.
        """
        self._drop_the_dead()
        if self._started and not self._forker.alive:
            self._forker.close()
            self._forker = Forker(self.log_dir / "zygote.log")
            self._members.clear()
            self._started = False
        if not self._started:
            self._forker.start()
            self._started = True
        wanted = range(self.size) if seats is None else seats
        empty = [self._seat(i) for i in wanted if i not in self._members]
        for member in self._forker.spawn(empty):
            self._members[member.seat] = member

    def run(
        self,
        call: str,
        args: Args | Sequence[Args],
        *,
        deadline_seconds: float,
        silence_seconds: float | None = None,
        on_progress: OnProgress | None = None,
        ranks: int | Sequence[int] | None = None,
        guard: Guard | None = None,
    ) -> list[dict[str, Any]]:
        """Run a function on the first ``ranks`` seats (all by default); results by rank.

        ``ranks`` may also list the seats; a launch rank is the number of its seat.
        ``args`` is one mapping for all or one per rank. ``deadline_seconds`` bounds
        the whole task, ``silence_seconds`` the time between two reports of a rank.
        ``guard`` looks on, and ends the task where it finds it stalled.

        Raises:
            ConfigError: seats that the pool does not have.
            RankKilledError: a rank's process ended; the first death is the cause.
            RankSilentError: a deadline passed; names the ranks, the stopped ones first.
            StalledError: the guard found that nothing moves.
            RankFailedError: an unexpected exception in a rank.
            HolmesError: the error a rank raised, with the rank in ``where``.
        """
        seats = self._chosen(ranks)
        per_rank = [args] * len(seats) if isinstance(args, Mapping) else list(args)
        if len(per_rank) != len(seats):
            raise ConfigError(f"{len(per_rank)} sets of arguments for {len(seats)} ranks")
        limits = Deadlines(deadline_seconds, silence_seconds)
        self.start(seats)
        clean = False
        try:
            if guard is not None:
                guard.begin({rank: self._members[rank].pid for rank in seats})
            watch = self._send_out(call, dict(zip(seats, per_rank, strict=True)), limits)
            failure = self._attend(call, watch, on_progress, guard)
            clean = failure is None
        finally:
            if not clean:  # also after Ctrl-C or an error in on_progress
                self._retire(seats)
        if failure is not None:
            raise failure
        return [dict(watch.results[rank]) for rank in seats]

    def _chosen(self, ranks: int | Sequence[int] | None) -> list[int]:
        seats = range(ranks) if isinstance(ranks, int) else range(self.size)
        listed = list(seats if ranks is None or isinstance(ranks, int) else ranks)
        if not listed or len(set(listed)) < len(listed) or not set(listed) <= set(range(self.size)):
            raise ConfigError(f"{ranks} ranks asked of a pool of {self.size}")
        return listed

    def kill(self, seats: Sequence[int]) -> None:
        """SIGKILL to the ranks in these seats; a task that runs learns of it from the kernel."""
        pids = [self._members[seat].pid for seat in seats if seat in self._members]
        self._forker.signal(pids, signal.SIGKILL)

    def move_logs(self, folder: Path) -> None:
        """Write the logs of later tasks to another folder."""
        self.log_dir = Path(folder).absolute()

    def close(self) -> None:
        """End all ranks and the zygote; nothing is left running. Idempotent."""
        for member in self._members.values():
            member.channel.close()
        self._members.clear()
        self._forker.close()

    def _seat(self, number: int) -> Seat:
        return Seat(
            number,
            tuple(self._enter[number]),
            self._environment[number],
            self._log(number),
            self._threads,
        )

    def _host(self, rank: int) -> tuple[Sequence[str], str | None]:
        """Equal for seats on the same host."""
        return self._enter[rank], self._environment[rank].get("HOLMES_NODE")

    def _log(self, rank: int) -> Path:
        return self.log_dir / f"rank-{rank}.log"

    def _send_out(self, call: str, per_rank: Mapping[int, Args], limits: Deadlines) -> Watch:
        seats = list(per_rank)
        port = self._port(seats[0])
        watch = Watch(limits, time.monotonic(), set(seats))
        for rank, args in per_rank.items():
            context = {
                "rank": rank,
                "world_size": len(seats),
                "local_rank": sum(self._host(rank) == self._host(other) for other in range(rank)),
                "node_name": self._environment[rank].get("HOLMES_NODE"),
                "master_address": self._addresses[seats[0]],
                "master_port": port,
                "hosts_store": rank == seats[0],
            }
            message = {"op": "run", "call": call, "args": dict(args), "context": context}
            with suppress(OSError):  # a rank that does not read is found dead or silent below
                self._members[rank].channel.send(
                    {**message, "log": str(self._log(rank))}, timeout=ANSWER_SECONDS
                )
        return watch

    def _port(self, seat: int) -> int:
        """A free port on the host of a seat, found by the rank that sits there."""
        member = self._members[seat]
        messages: list[Message] = []
        with suppress(OSError):
            member.channel.send({"op": "port", "address": self._addresses[seat]}, ANSWER_SECONDS)
            select.select([member.channel], [], [], ANSWER_SECONDS)
            messages, _ = member.channel.drain()
        if not messages:
            raise RankSilentError("choosing a port", ANSWER_SECONDS, [self._standing(seat, None)])
        if messages[0]["kind"] == "error":
            raise carried("choosing a port", self._standing(seat, None), messages[0])
        return int(messages[0]["port"])

    def _attend(
        self, call: str, watch: Watch, on_progress: OnProgress | None, guard: Guard | None
    ) -> HolmesError | None:
        """Listen until the task is over; None when every rank answered."""
        longest = LONGEST_WAIT_SECONDS if guard is None else guard.interval
        while not watch.over(now := time.monotonic()):
            listening = {self._members[rank].channel: rank for rank in watch.pending}
            wait = min(max(0.0, watch.next_check(now) - now), longest)
            sources: list[Channel | Forker] = [*listening, self._forker]
            for source in select.select(sources, [], [], wait)[0]:
                if isinstance(source, Channel):
                    self._listen(listening[source], watch, on_progress)
                    continue
                source.poll()
                if not source.alive:
                    return _zygote_lost(call)
            if guard is not None and (stopped := self._consult(watch, guard)):
                return stopped
        failure = self._judge(call, watch)
        if failure is not None and guard is not None:
            self._write_stacks(watch.pending)
            guard.freeze()
            guard.conclude(*_kind_of(failure), failure.text())
        return failure

    def _consult(self, watch: Watch, guard: Guard) -> HolmesError | None:
        """Let the guard keep evidence of a first failure, or find that nothing moves."""
        if watch.errors or watch.dead:
            guard.freeze()
            return None
        now = time.monotonic()
        for rank in guard.excused():
            watch.excuse(rank, now)
        if (number := guard.order(now)) is not None:
            self._forker.signal([self._members[rank].pid for rank in watch.pending], number)
        stall = guard.look(now)
        if stall is None:
            return None
        guard.freeze()
        self._write_stacks(watch.pending)
        failure = StalledError(stall)
        guard.conclude("stall", None, failure.text())
        return failure

    def _write_stacks(self, ranks: Iterable[int]) -> None:
        """Have ranks write the stack of each thread to their logs."""
        self._forker.signal([self._members[rank].pid for rank in ranks], signal.SIGUSR1)
        time.sleep(STACK_SECONDS)

    def _listen(self, rank: int, watch: Watch, on_progress: OnProgress | None) -> None:
        messages, gone = self._members[rank].channel.drain()
        now = time.monotonic()
        for message in messages:
            watch.hear(rank, message, now)
            if message["kind"] == "progress" and on_progress is not None:
                on_progress(rank, message["value"])
        if gone and rank in watch.pending:
            watch.lose(rank, now)

    def _judge(self, call: str, watch: Watch) -> HolmesError | None:
        if watch.dead:
            rank = self._first_dead(watch.dead)
            status = self._forker.status(self._members[rank].pid)
            if status is None and not self._forker.alive:
                return _zygote_lost(call)
            return RankKilledError(call, self._standing(rank, watch), status)
        if cause := watch.cause():
            rank, payload = cause
            return carried(call, self._standing(rank, watch), payload)
        if watch.pending:
            seconds, late = watch.silent(time.monotonic())
            standings = [self._standing(rank, watch) for rank in late]
            self._write_stacks(late)
            return RankSilentError(call, seconds, standings)
        return None

    def _first_dead(self, dead: Sequence[int]) -> int:
        """Of ranks that died nearly together, the one whose end the kernel told first."""
        self._forker.status(self._members[dead[0]].pid)
        rank_of = {self._members[rank].pid: rank for rank in self._members}
        return next((rank_of[pid] for pid in self._forker.statuses if pid in rank_of), dead[0])

    def _standing(self, rank: int, watch: Watch | None) -> Standing:
        pid = self._members[rank].pid
        last = watch.last.get(rank) if watch else None
        return Standing(rank, pid, str(self._log(rank)), last, state_of(pid))

    def _drop_the_dead(self) -> None:
        """Empty the seats of ranks that ended between tasks."""
        if self._forker.alive:
            self._forker.poll()
        for seat, member in list(self._members.items()):
            if member.pid in self._forker.statuses:
                member.channel.close()
                del self._members[seat]

    def _retire(self, seats: Sequence[int]) -> None:
        """End the ranks in these seats; the next start fills them again."""
        leaving = [self._members.pop(seat) for seat in seats if seat in self._members]
        for member in leaving:
            member.channel.close()
        self._forker.end([member.pid for member in leaving])


def _per_seat(name: str, given: Sequence[T] | None, size: int, default: T) -> list[T]:
    if given is None:
        return [default] * size
    if len(given) != size:
        raise ConfigError(f"{name} has {len(given)} entries for {size} ranks")
    return list(given)


def _kind_of(failure: HolmesError) -> tuple[str, int | None]:
    """What a guard is told of a failure, and of which launch rank it is."""
    if isinstance(failure, RankKilledError):
        return "death", failure.rank
    if isinstance(failure, RankSilentError):
        return "silence", None
    return "error", getattr(failure, "rank", None)


def _zygote_lost(call: str) -> RankDiedError:
    return RankDiedError(
        "the process that starts ranks ended, and every rank with it",
        where=call,
        why="it was killed from outside, or the machine ran out of memory",
    )
