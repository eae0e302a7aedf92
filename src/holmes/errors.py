"""Errors a user can act on: what happened, where, why, and what to do next.

Every error that reaches the command line is a :class:`HolmesError`; the exit
code travels with it, so no command decides exit codes on its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class HolmesError(Exception):
    """Base of all expected failures.

    Args:
        what: one sentence, what went wrong.
        where: file and line, key, rank or interface.
        why: the rule that was broken or the cause found.
        next_step: what the reader should do about it.
    """

    exit_code: ClassVar[int] = 70

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        why: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.why = why
        self.next_step = next_step
        super().__init__(self.text())

    def text(self) -> str:
        """The message as plain lines, in reading order."""
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.why:
            lines.append(f"  why:   {self.why}")
        if self.next_step:
            lines.append(f"  next:  {self.next_step}")
        return "\n".join(lines)


class UsageError(HolmesError):
    """The command line itself is wrong."""

    exit_code = 2


class DataError(HolmesError):
    """Input data, a table or a checkpoint is bad or missing."""

    exit_code = 65


class UnavailableError(HolmesError):
    """A port, NIC or permission that is needed is not there."""

    exit_code = 69


class WriteError(HolmesError):
    """A file or folder could not be written."""

    exit_code = 74


class RankDiedError(HolmesError):
    """A rank died, or the run stopped in a state it can resume from."""

    exit_code = 75


class TerminatedError(HolmesError):
    """SIGTERM arrived, and the run stopped in order."""

    exit_code = 143


class ConfigError(HolmesError):
    """A site, a job, an override key or a value is wrong."""

    exit_code = 78


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """The known word nearest to ``word``, or None when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return near[0] if near else None
