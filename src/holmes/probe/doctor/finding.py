"""Finding: one line of the doctor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from holmes.errors import UnavailableError

Verdict = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """What was checked, how it stands, and what to do where it does not stand well.

    ``node`` is the machine it is about, empty for the site as a whole.
    """

    check: str
    verdict: Verdict
    said: str
    do: str = ""
    node: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def ok(check: str, said: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", said)


def warn(check: str, said: str, do: str) -> Finding:
    """Training works, less well than it could."""
    return Finding(check, "warn", said, do)


def fail(check: str, said: str, do: str) -> Finding:
    """Training would not work, or not as planned."""
    return Finding(check, "fail", said, do)


def skip(check: str, said: str) -> Finding:
    """Not checked, and why."""
    return Finding(check, "skip", said)


def exit_code(findings: Iterable[Finding]) -> int:
    """0, or that of something unavailable where a check failed."""
    failed = any(each.verdict == "fail" for each in findings)
    return UnavailableError.exit_code if failed else 0
