"""What went wrong with a rank, as errors that name it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holmes import errors
from holmes.errors import HolmesError, RankDiedError
from holmes.launch.process import describe_status
from holmes.launch.watch import Stall

Progress = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """What the caller knows of one rank: last report, where its log is, kernel state."""

    rank: int
    pid: int
    log: str
    last: Progress | None = None
    state: str = ""

    def text(self) -> str:
        doing = "no report yet" if self.last is None else f"last report {brief(self.last)}"
        state = f", {self.state}" if self.state else ""
        return f"rank {self.rank} (pid {self.pid}{state}): {doing}"


class RankKilledError(RankDiedError):
    """A rank's process ended during a task. ``rank``, ``pid``, ``signal`` (or None), ``last``."""

    def __init__(self, call: str, standing: Standing, status: int | None) -> None:
        self.rank = standing.rank
        self.pid = standing.pid
        self.last = standing.last
        killed = status is not None and os.WIFSIGNALED(status)
        self.signal = os.WTERMSIG(status) if status is not None and killed else None
        why = "no rank can go on without it, so the others were ended"
        if self.signal == 9:
            why += "; a SIGKILL that nobody sent is usually the kernel short of memory (see dmesg)"
        super().__init__(
            f"rank {self.rank} died: {describe_status(status)}",
            where=f"{standing.text()}, in {call}",
            why=why,
            next_step=f"read the end of {standing.log}",
        )


class RankSilentError(RankDiedError):
    """Ranks gave no answer before a deadline. ``ranks``: all of them; ``stopped``: the frozen."""

    def __init__(self, call: str, seconds: float, standings: Sequence[Standing]) -> None:
        self.ranks = tuple(standing.rank for standing in standings)
        self.stopped = tuple(s.rank for s in standings if s.state.startswith("stopped"))
        guilty = self.stopped or self.ranks
        verb = "is" if len(guilty) == 1 else "are"
        frozen = f" {verb} stopped and" if self.stopped else ""
        others = "; the others may wait for it" if self.stopped and self.ranks[1:] else ""
        super().__init__(
            f"{_named(guilty)}{frozen} gave no answer within {seconds:g} s{others}",
            where=f"{call}: " + "; ".join(standing.text() for standing in standings),
            why="all ranks were ended, since a task cannot finish without every one of them",
            next_step=self._advice([standing for standing in standings if standing.rank in guilty]),
        )

    def _advice(self, guilty: Sequence[Standing]) -> str:
        logs = ", ".join(standing.log for standing in guilty)
        if self.stopped:
            return f"find what stopped it (SIGSTOP, a debugger, a frozen cgroup); its log is {logs}"
        return f"the stack of each silent rank is at the end of its log, {logs}"


class StalledError(RankDiedError):
    """No rank gets anywhere, and a guard has found out why."""

    def __init__(self, stall: Stall) -> None:
        super().__init__(stall.what, where=stall.where, why=stall.why, next_step=stall.next_step)


class RankFailedError(HolmesError):
    """A task raised something unexpected in a rank. ``rank``, ``reason``."""

    def __init__(self, call: str, standing: Standing, payload: Mapping[str, Any]) -> None:
        self.rank = standing.rank
        self.reason = f"{payload['class']}: {payload['what']}".rstrip(": ")
        super().__init__(
            f"rank {self.rank} failed: {self.reason}",
            where=f"{standing.text()}, in {call}",
            next_step=f"the traceback is at the end of {standing.log}",
        )


def carried(call: str, standing: Standing, payload: Mapping[str, Any]) -> HolmesError:
    """The error a rank sent, as the same class of error, saying which rank it was."""
    if payload["exit_code"] is None:
        return RankFailedError(call, standing, payload)
    where = f"rank {standing.rank}"
    if payload["where"]:
        where += f": {payload['where']}"
    return _class_for(payload["class"], payload["exit_code"])(
        payload["what"], where=where, why=payload["why"], next_step=payload["next_step"]
    )


def _class_for(name: str, exit_code: int) -> type[HolmesError]:
    """The error class by name, else the base class that exits with the same code."""
    known = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, HolmesError)
    ]
    by_name = next((value for value in known if value.__name__ == name), None)
    by_code = next((value for value in known if value.exit_code == exit_code), None)
    return by_name or by_code or HolmesError


def brief(value: Progress, limit: int = 200) -> str:
    """A report on one short line."""
    text = json.dumps(value, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _named(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return "ranks " + ", ".join(str(rank) for rank in ranks)
