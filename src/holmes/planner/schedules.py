"""Which schedules a shape may run, and how many micro-batches each holds."""

from __future__ import annotations

from holmes.cost import axes
from holmes.plan.layout import ScheduleName
from holmes.planner.settings import LOOPED, Settings
from holmes.planner.warmup import Extras

Looped = tuple[ScheduleName, int]
"""A schedule and its virtual stages per device."""


def schedules_of(settings: Settings, stages: int, microbatches: int, layers: int) -> list[Looped]:
    """Schedules worth a price: with one stage or one micro-batch all are the same.

    A looped schedule needs a transformer block for every virtual stage; the
    interleaved one also whole rounds of as many micro-batches as stages
    (Narayanan et al. 2021, section 2.2).
    """
    if stages == 1 or microbatches == 1:
        plain = [name for name in settings.schedules if name not in LOOPED]
        return [(plain[0], 1)] if plain else []
    found: list[Looped] = []
    for name in settings.schedules:
        if name not in LOOPED:
            found.append((name, 1))
            continue
        if name == "interleaved" and microbatches % stages:
            continue
        found += [(name, v) for v in settings.virtual_stages if v * stages <= layers]
    return found


def in_flight(
    schedule: ScheduleName, stages: int, microbatches: int, virtual_stages: int, extras: Extras
) -> tuple[float, ...]:
    """Micro-batches between forward and backward, per device stage, as whole stages."""
    return tuple(
        min(
            float(microbatches),
            axes.in_flight(schedule, stage, stages, microbatches, virtual_stages)
            + sum(extras[stage:]),
        )
        for stage in range(stages)
    )
