"""Progress: where a run tells what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holmes.launch.session import OnProgress

Say = Callable[[str], None]


@dataclass(frozen=True)
class Progress:
    """Lines for phases, a callback for steps."""

    say: Say
    on_steps: Callable[[str, int], OnProgress]
    """(run name, steps) -> what to call with (rank, report)."""
