"""Seconds and bytes of a case: the closed form on its plan, as the planner prices a candidate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from holmes.accuracy.case_plan import CasePlan, plan_of, reason_of
from holmes.accuracy.table import Case, UnusableRowError
from holmes.cost.calibration import Calibration
from holmes.cost.memory import (
    MemoryParts,
    memory_parts,
    pipeline_parts,
    runtime_bytes,
    split_by_tokens,
)
from holmes.errors import HolmesError
from holmes.plan.program import schedule_of
from holmes.simulate.closed_form import step_seconds


@dataclass(frozen=True)
class Prediction:
    """What one step of a case takes, with the interval of its calibration.

    ``memory_bytes`` is the largest peak over the ranks, ``counted_bytes`` its states and
    activations alone, ``room_bytes`` what the smallest device has.
    """

    seconds: float
    low: float
    high: float
    memory_bytes: int
    counted_bytes: int
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
        UnusableRowError: the case cannot be planned, with the reason.
    """
    made = plan_of(case, sites, calibration)
    try:
        return predicted(made)
    except HolmesError as error:
        raise UnusableRowError(reason_of(error)) from None


def predicted(made: CasePlan) -> Prediction:
    """The prediction of a case whose plan is made."""
    seconds = case_seconds(made)
    calibration = made.cost.calibration
    peak = peak_memory(made)
    kinds = {made.cost.device(slot).name for slot in made.cost.topology.devices}
    low, high = calibration.bounds(seconds, kinds)
    rooms = [made.cost.device(slot).memory_gb for slot in made.cost.topology.devices]
    known = [room * 1e9 for room in rooms if room is not None]
    return Prediction(
        seconds=seconds,
        low=low,
        high=high,
        memory_bytes=peak.total,
        counted_bytes=int(peak.states + peak.activations),
        room_bytes=min(known, default=math.inf),
        source=f"calibration {calibration.name}",
        assumed=made.assumed,
    )


def case_seconds(made: CasePlan) -> float:
    """Seconds of one step, as the planner prices a candidate."""
    return step_seconds(made.plan, made.cost)


def peak_memory(made: CasePlan) -> MemoryParts:
    """The parts of the pipeline rank that needs most."""
    plan, how = made.plan, made.cost.execution
    workload = split_by_tokens(plan.workload, how.context, how.sequence_parallel)
    if plan.schedule.virtual_stages == 1:
        parts = memory_parts(replace(plan, workload=workload))
    else:
        parts = pipeline_parts(
            workload,
            schedule_of(plan),
            [stage.blocks for stage in plan.stages],
            plan.stages[0].layout,
            plan.sharding,
            plan.batch.micro,
            plan.recompute,
        )
    # Runs in fp32 hold communicators, too, where devices could do half precision.
    kinds = {made.cost.device(slot).peak_precision for slot in made.cost.topology.devices}
    runtime = runtime_bytes(plan.stages[0].layout, accelerator="fp32" not in kinds)
    return replace(max(parts, key=lambda one: one.total), runtime=runtime)
