"""When each action runs if nothing but its own time and its neighbours hold it up.

The slow and obvious reading of a schedule: it knows nothing of ranks, lanes or networks, and
the simulators must agree with it where transfers are free. Times may be integers (golden
timelines are exact) or floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holmes.errors import HolmesError
from holmes.schedule.instruction import ACCUMULATING_OPS, UPWARD_OPS, Action, Op, Schedule


@dataclass(frozen=True)
class Durations:
    """Time units of one micro-batch on one (virtual) stage, and of a transfer between ranks.

    ``backward`` is the whole backward, of which ``weight`` is the part of the weights'
    gradients; a schedule that does not split it ignores ``weight``.
    """

    forward: float = 1
    backward: float = 2
    weight: float = 1
    transfer: float = 0

    def of(self, op: Op) -> float:
        """The time of one action."""
        return {
            Op.FORWARD: self.forward,
            Op.BACKWARD: self.backward,
            Op.INPUT_GRADIENT: self.backward - self.weight,
            Op.WEIGHT_GRADIENT: self.weight,
        }[op]


@dataclass(frozen=True)
class Slot:
    """One action on its pipeline rank, in time units from the start of the step."""

    rank: int
    action: Action
    start: float
    stop: float


def timeline(schedule: Schedule, durations: Durations) -> tuple[Slot, ...]:
    """Every action as early as its order and its inputs allow, by rank, then time.

    Raises:
        HolmesError: the actions wait for each other.
    """
    ends: dict[tuple[bool, int, int], float] = {}
    slots: list[list[Slot]] = [[] for _ in schedule.actions]
    waiting = [list(order) for order in schedule.actions]
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(waiting):
            while order:
                ready = _ready(schedule, order[0], ends, durations)
                if ready is None:
                    break
                action = order.pop(0)
                start = max(ready, slots[rank][-1].stop if slots[rank] else 0)
                slot = Slot(rank, action, start, start + durations.of(action.op))
                slots[rank].append(slot)
                if action.op is Op.FORWARD or action.op in UPWARD_OPS:
                    ends[action.op is Op.FORWARD, action.stage, action.microbatch] = slot.stop
                moved = True
    if any(waiting):
        rank = next(rank for rank, order in enumerate(waiting) if order)
        raise HolmesError(f"the schedule deadlocks: rank {rank} never runs {waiting[rank][0]}")
    return tuple(slot for row in slots for slot in row)


def _ready(
    schedule: Schedule,
    action: Action,
    ends: Mapping[tuple[bool, int, int], float],
    durations: Durations,
) -> float | None:
    """When the inputs of an action are there; None while they are not known."""
    last = schedule.stages * schedule.virtual_stages - 1
    down = action.op is Op.FORWARD
    if action.op is Op.WEIGHT_GRADIENT:
        return ends.get((False, action.stage, action.microbatch))
    feeder = action.stage - 1 if down else action.stage + 1
    if down and feeder < 0:
        return 0
    if feeder > last:
        return ends.get((True, action.stage, action.microbatch))
    end = ends.get((down, feeder, action.microbatch))
    return None if end is None else end + durations.transfer


def makespan(slots: Sequence[Slot]) -> float:
    """From 0 to the end of the last action."""
    return max(slot.stop for slot in slots)


def bubble_fraction(slots: Sequence[Slot]) -> float:
    """The share of the ranks' time in which they run nothing."""
    ranks = 1 + max(slot.rank for slot in slots)
    busy = sum(slot.stop - slot.start for slot in slots)
    return 1 - busy / (ranks * makespan(slots))


def activation_peaks(
    schedule: Schedule, held: Sequence[float] = (), pending: Sequence[float] = ()
) -> tuple[float, ...]:
    """The most that each pipeline rank holds at once, over all its stages.

    Args:
        held: per virtual stage, what one micro-batch keeps from forward on; by default
            one rank's share of a micro-batch, 1 / v.
        pending: per virtual stage, what it keeps between the gradient of its input and
            those of its weights; by default as much as before.
    """
    count = schedule.stages * schedule.virtual_stages
    held = held or (1 / schedule.virtual_stages,) * count
    pending = pending or held
    peaks = []
    for order in schedule.actions:
        now = most = 0.0
        for action in order:
            stage = action.stage
            if action.op is Op.FORWARD:
                now += held[stage]
            elif action.op is Op.INPUT_GRADIENT:
                now += pending[stage] - held[stage]
            elif action.op in ACCUMULATING_OPS:
                now -= held[stage] if action.op is Op.BACKWARD else pending[stage]
            most = max(most, now)
        peaks.append(most)
    return tuple(peaks)
