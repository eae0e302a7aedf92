"""Seconds and bytes of a case: the closed form on its plan, as the planner prices a candidate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from holmes.accuracy.case_plan import CasePlan, plan_of, reason_of
from holmes.accuracy.table import Case, Unusable
from holmes.cost.calibration import Calibration
from holmes.cost.memory import memory_bytes
from holmes.errors import HolmesError
from holmes.simulate.closed_form import step_seconds


@dataclass(frozen=True)
class Prediction:
    """What one step of a case takes, with the interval of its calibration.

    ``memory_bytes`` is the largest peak over the ranks, ``room_bytes`` what the
    smallest device has.
    """

    seconds: float
    low: float
    high: float
    memory_bytes: int
    room_bytes: float
    source: str
    assumed: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every rank has the memory it is predicted to need."""
        return self.holds(self.memory_bytes)

    def holds(self, bytes_: float) -> bool:
        """Whether the smallest device has this many bytes."""
        return bytes_ <= self.room_bytes


def predict(case: Case, sites: Path, calibration: Calibration) -> Prediction:
    """Predict one case from its model, layout and hardware alone.

    Raises:
        Unusable: the case cannot be planned, with the reason.
    """
    made = plan_of(case, sites, calibration)
    try:
        return predicted(made)
    except HolmesError as error:
        raise Unusable(reason_of(error)) from None


def predicted(made: CasePlan) -> Prediction:
    """The prediction of a case whose plan is made."""
    seconds = case_seconds(made)
    calibration = made.cost.calibration
    memory = memory_bytes(made.plan)
    rooms = [made.cost.device(slot).memory_gb for slot in made.cost.topology.devices]
    known = [room * 1e9 for room in rooms if room is not None]
    return Prediction(
        seconds=seconds,
        low=seconds * (1 - calibration.interval),
        high=seconds * (1 + calibration.interval),
        memory_bytes=max(memory.values()),
        room_bytes=min(known, default=math.inf),
        source=f"calibration {calibration.name}",
        assumed=made.assumed,
    )


def case_seconds(made: CasePlan) -> float:
    """Seconds of one step; an interleaved run saves part of its bubble.

    With v chunks per stage the bubble of p stages is (p - 1)/v micro-batches of one
    stage (Narayanan et al. 2021, section 2.2.2).
    """
    seconds = step_seconds(made.plan, made.cost)
    chunks = made.case.interleave
    if chunks == 1:
        return seconds
    plan = made.plan
    slot = made.cost.topology.devices[plan.rank_map[plan.stages[0].ranks[0]]]
    middle = plan.stages[min(1, len(plan.stages) - 1)]
    time = made.cost.blocks_time(
        middle.blocks, slot, plan.batch.micro, plan.layout.tp, plan.recompute
    )
    bubble = (plan.layout.pp - 1) * (time.forward + time.backward)
    return seconds - bubble * (1 - 1 / chunks)
