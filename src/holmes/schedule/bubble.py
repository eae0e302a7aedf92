"""Closed forms of the bubble, for equal stages and free transfers."""

from __future__ import annotations

from holmes.errors import HolmesError
from holmes.schedule.generate import FORMS
from holmes.schedule.instruction import Schedule
from holmes.schedule.timeline import Durations


def bubble_time(schedule: Schedule, durations: Durations) -> float:
    """Time units in which a rank runs nothing during a step.

    With f and b of one micro-batch on one virtual stage, (p - 1) (f + b) for gpipe (Huang et
    al. 2019, section 2.3), 1f1b and interleaved (Narayanan et al. 2021, section 2.2: v times
    smaller, as f and b are); what differs stands beside the generator of the schedule.

    Raises:
        HolmesError: where there is no closed form.
    """
    return FORMS[schedule.name].bubble(schedule, durations)


def predicted_bubble_fraction(schedule: Schedule, durations: Durations) -> float | None:
    """The bubble's share of the step; None where there is no closed form."""
    busy = schedule.microbatches * schedule.virtual_stages
    try:
        idle = bubble_time(schedule, durations)
    except HolmesError:
        return None
    return idle / (idle + busy * (durations.forward + durations.backward))
