"""One schedule in numbers: its timeline, bubble and activation peaks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

from holmes.errors import ConfigError
from holmes.schedule.bubble import predicted_bubble_fraction
from holmes.schedule.instruction import Schedule
from holmes.schedule.timeline import (
    Durations,
    Slot,
    activation_peaks,
    bubble_fraction,
    makespan,
    timeline,
)

MOST_SLOTS = 100_000
"""Beyond this a picture shows nothing and takes minutes."""


def check_drawable(actions: int) -> None:
    """Refuse a schedule of more actions than a page shows.

    Raises:
        ConfigError: naming the most.
    """
    if actions > MOST_SLOTS:
        raise ConfigError(
            f"{actions} actions are too many to draw",
            where="--stages, --microbatches, --virtual",
            next_step=f"ask for at most {MOST_SLOTS}",
        )


@dataclass(frozen=True)
class ScheduleFacts:
    """A schedule with the times of its actions.

    Raises:
        ConfigError: for times that are none, or far too many actions to draw.
    """

    schedule: Schedule
    durations: Durations

    def __post_init__(self) -> None:
        d = self.durations
        times = (d.forward, d.backward, d.weight, d.transfer)
        if not all(isfinite(time) for time in times) or not (
            d.forward > 0 and d.backward > 0 and d.transfer >= 0 and 0 < d.weight < d.backward
        ):
            raise ConfigError(
                f"forward {d.forward:g}, backward {d.backward:g}, of which weight {d.weight:g}, "
                f"transfer {d.transfer:g}",
                where="--forward, --backward, --weight, --transfer",
                why="forward and backward take time, and the weights' gradients a part of it",
            )
        check_drawable(sum(len(order) for order in self.schedule.actions))

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Every action, by rank, then time."""
        return timeline(self.schedule, self.durations)

    @cached_property
    def length(self) -> float:
        """Time units of the step."""
        return makespan(self.slots)

    @cached_property
    def bubble(self) -> float:
        """Share of the ranks' time in which they run nothing."""
        return bubble_fraction(self.slots)

    @property
    def closed_form(self) -> float | None:
        """The bubble by its closed form; None where there is none or transfers take time."""
        if self.durations.transfer:
            return None
        return predicted_bubble_fraction(self.schedule, self.durations)

    @cached_property
    def peaks(self) -> tuple[float, ...]:
        """Micro-batches held at most, per pipeline rank, in units of all its blocks."""
        return activation_peaks(self.schedule)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; times in the units of the durations."""
        schedule, d = self.schedule, self.durations
        return {
            "name": schedule.name,
            "stages": schedule.stages,
            "microbatches": schedule.microbatches,
            "virtual_stages": schedule.virtual_stages,
            "extra_warmup": max(schedule.extra_warmup, default=0),
            "durations": {
                "forward": d.forward,
                "backward": d.backward,
                "weight": d.weight,
                "transfer": d.transfer,
            },
            "length": self.length,
            "bubble_fraction": self.bubble,
            "bubble_closed_form": self.closed_form,
            "activation_peaks": list(self.peaks),
            "timeline": [
                {
                    "rank": slot.rank,
                    "op": slot.action.op.value,
                    "stage": slot.action.stage,
                    "microbatch": slot.action.microbatch,
                    "start": slot.start,
                    "stop": slot.stop,
                }
                for slot in self.slots
            ],
        }
