"""Any schedule by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from holmes.errors import ConfigError
from holmes.schedule.gpipe import gpipe
from holmes.schedule.instruction import Schedule
from holmes.schedule.interleaved import interleaved
from holmes.schedule.looped_bfs import looped_bfs
from holmes.schedule.one_f_one_b import one_f_one_b
from holmes.schedule.zero_bubble import zero_bubble

ScheduleName = Literal["gpipe", "1f1b", "interleaved", "zero-bubble", "looped-bfs"]

SCHEDULES: tuple[ScheduleName, ...] = ("1f1b", "gpipe", "interleaved", "zero-bubble", "looped-bfs")
WITH_VIRTUAL_STAGES = frozenset({"interleaved", "looped-bfs"})
WITH_WARMUP = frozenset({"1f1b", "zero-bubble"})
"""Schedules whose warm-up can grow."""
DEFAULT_VIRTUAL_STAGES = 2


def generate(
    name: ScheduleName,
    stages: int,
    microbatches: int,
    virtual_stages: int = 1,
    extra_warmup: int | Sequence[int] = 0,
) -> Schedule:
    """The schedule of this name.

    Raises:
        ConfigError: when the schedule cannot have these counts, or a setting would have
            no effect on it.
    """
    extra = extra_warmup if isinstance(extra_warmup, int) else max(extra_warmup, default=0)
    if name not in WITH_VIRTUAL_STAGES and virtual_stages != 1:
        raise ConfigError(
            f"schedule {name} has one stage per rank, not {virtual_stages}",
            where="parallel.virtual_stages",
            next_step="leave virtual_stages out, or use schedule interleaved or looped-bfs",
        )
    if name not in WITH_WARMUP and extra != 0:
        raise ConfigError(
            f"extra_warmup has no effect with schedule {name}",
            where="parallel.extra_warmup",
            why="its ring of ranks holds all the forwards it can"
            if name == "interleaved"
            else f"{name} runs all forwards before any backward",
            next_step="leave extra_warmup out, or use schedule 1f1b",
        )
    if name == "gpipe":
        return gpipe(stages, microbatches)
    if name == "1f1b":
        return one_f_one_b(stages, microbatches, extra_warmup)
    if name == "interleaved":
        return interleaved(stages, microbatches, virtual_stages)
    if name == "zero-bubble":
        return zero_bubble(stages, microbatches, extra_warmup)
    return looped_bfs(stages, microbatches, virtual_stages)
