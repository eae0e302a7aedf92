"""Which schedules a shape may run, and how many micro-batches each holds."""

from __future__ import annotations

from functools import lru_cache

from holmes.plan.layout import ScheduleName
from holmes.planner.settings import Settings
from holmes.planner.warmup import Extras
from holmes.schedule.generate import FORMS, WITH_VIRTUAL_STAGES, generate
from holmes.schedule.instruction import Schedule

Looped = tuple[ScheduleName, int]
"""A schedule and its virtual stages per device."""
WHOLE_STAGE_WHOLE_BACKWARD = frozenset(
    name for name, form in FORMS.items() if not form.loops and not form.splits_backward
)
"""Schedules whose micro-batches in flight need no list of actions."""


def schedules_of(settings: Settings, stages: int, microbatches: int, blocks: int) -> list[Looped]:
    """Schedules worth a price: with one stage or one micro-batch all are the same.

    A looped schedule needs a block for every virtual stage; the interleaved one also
    whole rounds of as many micro-batches as stages (Narayanan et al. 2021, section 2.2).
    """
    plain = [name for name in settings.schedules if name not in WITH_VIRTUAL_STAGES]
    if stages == 1 or (microbatches == 1 and plain):
        return [(plain[0], 1)] if plain else []
    found: list[Looped] = []
    for name in settings.schedules:
        if name in plain:
            found.append((name, 1))
            continue
        if FORMS[name].whole_rounds and microbatches % stages:
            continue
        found += [(name, v) for v in settings.virtual_stages if v * stages <= blocks]
    return found


def in_flight(
    schedule: ScheduleName, stages: int, microbatches: int, virtual_stages: int, extras: Extras
) -> tuple[float, ...]:
    """Micro-batches between forward and backward, per pipeline rank, as whole stages."""
    return tuple(
        min(
            float(microbatches),
            FORMS[schedule].in_flight(stage, stages, virtual_stages)
            + FORMS[schedule].extra_in_flight(stage, extras),
        )
        for stage in range(stages)
    )


@lru_cache(maxsize=128)
def waiting_gradients(stages: int, microbatches: int, extras: Extras) -> tuple[int, ...]:
    """Micro-batches that wait for zero-bubble's weight gradients, per pipeline rank."""
    return tuple(min(microbatches, 1 + stage + sum(extras[:stage])) for stage in range(stages))


@lru_cache(maxsize=128)
def filled(
    schedule: ScheduleName, stages: int, microbatches: int, virtual_stages: int, extras: Extras
) -> Schedule:
    """The schedule as far as it still fills: of more micro-batches no stage holds more.

    Raises:
        ConfigError: when the schedule cannot have these counts.
    """
    fills_after = FORMS[schedule].fills_after
    if fills_after is not None:
        microbatches = min(microbatches, fills_after(stages, virtual_stages) + sum(extras))
    return generate(schedule, stages, microbatches, virtual_stages, extras)
