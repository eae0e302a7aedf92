"""Any schedule by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from holmes.errors import ConfigError
from holmes.schedule.form import Form, ScheduleName
from holmes.schedule.gpipe import FORM as GPIPE
from holmes.schedule.instruction import Schedule
from holmes.schedule.interleaved import FORM as INTERLEAVED
from holmes.schedule.looped_bfs import FORM as LOOPED_BFS
from holmes.schedule.one_f_one_b import FORM as ONE_F_ONE_B
from holmes.schedule.zero_bubble import FORM as ZERO_BUBBLE

FORMS: Mapping[str, Form] = {
    form.name: form for form in (ONE_F_ONE_B, GPIPE, INTERLEAVED, ZERO_BUBBLE, LOOPED_BFS)
}
"""All schedules; of near equals the planner takes the first."""
SCHEDULES: tuple[ScheduleName, ...] = tuple(form.name for form in FORMS.values())
WITH_VIRTUAL_STAGES = frozenset(form.name for form in FORMS.values() if form.loops)
WITH_WARMUP = frozenset(form.name for form in FORMS.values() if form.fixed is None)
"""Schedules whose warm-up can grow."""
DEFAULT_VIRTUAL_STAGES = 2
KEPT = 16
"""Schedules that are remembered: a search asks for few, again and again."""


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
    form = FORMS[name]
    if not form.loops and virtual_stages != 1:
        raise ConfigError(
            f"schedule {name} has one stage per rank, not {virtual_stages}",
            where="parallel.virtual_stages",
            next_step=f"leave virtual_stages out, or use schedule {either(WITH_VIRTUAL_STAGES)}",
        )
    if form.fixed is not None and extra != 0:
        raise ConfigError(
            f"extra_warmup has no effect with schedule {name}",
            where="parallel.extra_warmup",
            why=form.fixed,
            next_step="leave extra_warmup out, or use schedule 1f1b",
        )
    extras = extra_warmup if isinstance(extra_warmup, int) else tuple(extra_warmup)
    return _generated(name, stages, microbatches, virtual_stages, extras)


@lru_cache(maxsize=KEPT)
def _generated(
    name: ScheduleName, stages: int, microbatches: int, virtual: int, extra: int | tuple[int, ...]
) -> Schedule:
    return FORMS[name].make(stages, microbatches, virtual, extra)


def either(names: frozenset[ScheduleName]) -> str:
    """Names of schedules for a sentence, in their own order."""
    return " or ".join(name for name in FORMS if name in names)
