"""Closed forms of the bubble, for equal stages and free transfers."""

from __future__ import annotations

from holmes.errors import HolmesError
from holmes.schedule.instruction import Schedule
from holmes.schedule.timeline import Durations


def bubble_time(schedule: Schedule, durations: Durations) -> float:
    """Time units in which a rank runs nothing during a step.

    With f and b of one micro-batch on one virtual stage, b = i + w the input and the
    weight part:

    * gpipe (Huang et al. 2019, section 2.3), 1f1b, interleaved (Narayanan et al. 2021,
      section 2.2: v times smaller, as f and b are): (p - 1) (f + b);
    * looped-bfs: the same, and (v - 1) (p - m) (f + b) more with fewer micro-batches
      than ranks, when each loop waits for its first micro-batch to come round;
    * zero-bubble (Qi et al. 2023, table 1, H1): (p - 1) (f + i - w) while w is the least
      of the three; in general (p - 1) max(f, i, f + i - w). With fewer micro-batches than
      stages, and so too few weight gradients to fill with, (p - m) min(f, i, w) more.

    Raises:
        HolmesError: zero-bubble with extra warm-up, for which there is no closed form.
    """
    p, m, v = schedule.stages, schedule.microbatches, schedule.virtual_stages
    both = durations.forward + durations.backward
    if schedule.name == "zero-bubble":
        if any(schedule.extra_warmup):
            raise HolmesError("no closed form of zero-bubble with extra warm-up")
        weight, rest = durations.weight, durations.backward - durations.weight
        each = max(durations.forward, rest, durations.forward + rest - weight)
        return (p - 1) * each + max(0, p - m) * min(durations.forward, rest, weight)
    if schedule.name == "looped-bfs":
        return (p - 1 + (v - 1) * max(0, p - m)) * both
    return (p - 1) * both


def predicted_bubble_fraction(schedule: Schedule, durations: Durations) -> float | None:
    """The bubble's share of the step; None where there is no closed form."""
    if schedule.name == "zero-bubble" and any(schedule.extra_warmup):
        return None
    busy = schedule.microbatches * schedule.virtual_stages
    idle = bubble_time(schedule, durations)
    return idle / (idle + busy * (durations.forward + durations.backward))
