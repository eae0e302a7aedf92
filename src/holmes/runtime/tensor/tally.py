"""What a step sends over the groups inside its blocks: counted, and as the Workload declares it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from holmes.errors import HolmesError, RankDiedError
from holmes.plan.boundary import passed_borders, passed_bytes
from holmes.plan.layout import Recompute
from holmes.plan.plan import Plan, Stage
from holmes.runtime.communicator import Communicator
from holmes.runtime.pipeline.pace import Pace
from holmes.workload.workload import Block, Collective

TOLERANCE = 0.05
"""Of the bytes; autocast and rounding to whole elements. Calls must be equal."""


@dataclass(frozen=True)
class Tally:
    """Calls and bytes that this rank sent, by collective."""

    calls: dict[str, int]
    bytes_: dict[str, float]

    @property
    def total_bytes(self) -> float:
        return sum(self.bytes_.values())

    def __add__(self, other: Tally) -> Tally:
        calls, sent = Counter(self.calls), Counter(self.bytes_)
        calls.update(other.calls)
        sent.update(other.bytes_)
        return Tally(dict(calls), dict(sent))


class GroupAxis:
    """One group inside the blocks of this rank; counts the collectives that they call for.

    :meth:`take_tally` gives calls and bytes sent since they were last taken.

    Args:
        pace: of the computation that the collectives interrupt.

    Attributes:
        index: this rank's place in the group.
        size: its ranks.
    """

    def __init__(self, comm: Communicator, pace: Pace | None = None) -> None:
        self.comm = comm
        self.index = comm.index
        self.size = comm.size
        self._pace = pace or Pace(None)
        self._counted = True
        self._calls: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def outside(self, ranks: Iterable[int] | None = None) -> Iterator[None]:
        """A wait for others in the middle of the computation.

        Args:
            ranks: who is waited for; None: all others of the group.

        Raises:
            RankDiedError: they did not answer.
        """
        try:
            with self._pace.outside():
                yield
        except RuntimeError as error:
            raise _silent(self.comm, set(ranks or self.comm.others), error) from error

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Collectives in here are no part of a step."""
        self._counted, before = False, self._counted
        try:
            yield
        finally:
            self._counted = before

    def take_tally(self) -> Tally:
        """What was counted since the last call."""
        taken = Tally(dict(self._calls), {op: float(n) for op, n in self._bytes.items()})
        self._calls.clear()
        self._bytes.clear()
        return taken

    def count(self, op: str, sent: int) -> None:
        """Note a collective of which this rank sends ``sent`` bytes."""
        if self._counted:
            self._calls[op] += 1
            self._bytes[op] += sent


def _silent(comm: Communicator, ranks: set[int], error: BaseException) -> RankDiedError:
    """What to say when others of the group do not answer."""
    names = ", ".join(map(str, sorted(ranks)))
    return RankDiedError(
        f"no answer from rank{'s' if len(ranks) > 1 else ''} {names} inside a block",
        where=f"rank {comm.ranks[comm.index]}, {comm}",
        why=(str(error).strip() or repr(error)).splitlines()[0],
        next_step="see which rank ended first; `holmes train --resume` continues from the last "
        "checkpoint",
    )


def declared(blocks: Iterable[Block], tp: int, samples: float, recompute: Recompute) -> Tally:
    """One micro-batch of ``samples`` through blocks, forward and backward.

    The inner program with sequence parallelism. Inputs that were gathered are kept for the
    backward, so the second gather of Korthikanti et al. is not made.
    """
    calls: Counter[str] = Counter()
    sent: dict[str, float] = defaultdict(float)
    forwards = 2 if recompute == "full" else 1
    for block in blocks:
        for part in block.inner:
            if not (isinstance(part, Collective) and part.axis == "tensor"):
                continue
            size = part.sent_bytes(tp) * samples
            for op, times in _as_run(part, forwards):
                rounds = 2 if part.op == "all_reduce" and op != "all_reduce" else 1
                calls[op] += times
                sent[op] += times * size / rounds
    return Tally(dict(calls), dict(sent))


def _as_run(part: Collective, forwards: int) -> tuple[tuple[str, int], ...]:
    """(operation, times) of a declared collective of the plain program."""
    if not part.tokens:
        return ((part.op, forwards),)
    if part.direction == "forward":
        return (("reduce_scatter", forwards), ("all_gather", 1))
    return (("all_gather", forwards), ("reduce_scatter", 1))


def gathered_boundaries(plan: Plan, stages: Sequence[Stage], samples: float) -> Tally:
    """All-gathers of a micro-batch where tensor ranks pass all tokens on."""
    sizes = [passed_bytes(plan, stage) * samples for stage in stages]
    tp = stages[0].layout.tp
    calls = sum(len(passed) for passed in map(partial(passed_borders, plan), stages))
    return Tally({"all_gather": calls}, {"all_gather": sum(sizes) * (tp - 1) / tp})


def check(counted: Tally, expected: Tally, times: int, where: str, axis: str = "tensor") -> None:
    """Compare a step of ``times`` micro-batches with what one is declared to send.

    Raises:
        HolmesError: when model and Workload do not agree.
    """
    calls = {op: n * times for op, n in expected.calls.items() if n}
    low, high = (expected.total_bytes * times * (1 + sign * TOLERANCE) for sign in (-1, 1))
    if counted.calls == calls and low <= counted.total_bytes <= high:
        return
    raise HolmesError(
        f"the {axis} collectives of a step are not those that the workload declares",
        where=where,
        why=f"counted {counted.calls}, {counted.total_bytes:.0f} bytes; declared {calls}, "
        f"{expected.total_bytes * times:.0f} bytes",
        next_step="the model's describe.py and sharding.py do not fit each other",
    )
