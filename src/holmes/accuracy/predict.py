"""Seconds and bytes of a case: the closed form on its plan, as the planner prices a candidate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from holmes.accuracy.case_plan import CasePlan, plan_of, reason_of
from holmes.accuracy.table import Case, UnusableRowError
from holmes.cost.calibration import Calibration
from holmes.cost.memory import MemoryParts, memory_parts, split_by_tokens
from holmes.errors import HolmesError
from holmes.plan.program import schedule_of
from holmes.simulate.closed_form import times_of
from holmes.simulate.recurrence import PartTimes, PipelineTimes, pipeline_seconds


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
    interval = calibration.interval_on(kinds)
    rooms = [made.cost.device(slot).memory_gb for slot in made.cost.topology.devices]
    known = [room * 1e9 for room in rooms if room is not None]
    return Prediction(
        seconds=seconds,
        low=seconds * (1 - interval),
        high=seconds * (1 + interval),
        memory_bytes=peak.total,
        counted_bytes=int(peak.states + peak.activations),
        room_bytes=min(known, default=math.inf),
        source=f"calibration {calibration.name}",
        assumed=made.assumed,
    )


def case_seconds(made: CasePlan) -> float:
    """Seconds of one step: the recurrence, with transfers as the run's software makes them.

    An interleaved run saves part of its bubble: with v chunks per stage it is (p - 1)/v
    micro-batches of one stage (Narayanan et al. 2021, section 2.2.2).
    """
    plan, chunks = made.plan, made.case.interleave
    times = times_of(plan, made.cost)
    compute = made.cost.calibration.compute
    if plan.sharding == "parameters":
        times = fully_sharded(times, compute.overlap_slowdown)
    elif not plan.overlap:
        times = blocking(times, chunks, compute.transfer_seconds)
    if plan.sharding == "none" and not plan.overlap:
        workload = plan.workload
        times = all_reduced(times, workload.gradient_bytes / workload.parameter_bytes)
    seconds = float(pipeline_seconds(schedule_of(plan), times, overlap=plan.overlap))
    typical = sorted(stage.forward + stage.backward for stage in times.stages)
    bubble = (plan.layout.pp - 1) * typical[len(typical) // 2]
    waiting = 1 + compute.straggler * math.log2(max(1, plan.world_size))
    return float((seconds - bubble * (1 - 1 / chunks)) * waiting)


def all_reduced(times: PipelineTimes, wider: float) -> PipelineTimes:
    """An optimiser that is not sharded sums whole gradients everywhere: its second half
    gathers gradients, ``wider`` times the parameters that a sharded one gathers."""
    stages = tuple(
        replace(
            stage,
            parts=tuple(replace(part, gather=part.gather * wider) for part in stage.parts),
        )
        for stage in times.stages
    )
    return replace(times, stages=stages)


def fully_sharded(times: PipelineTimes, slowdown: float) -> PipelineTimes:
    """Every forward gathers parameters, every backward gathers again and reduces, all under
    the compute, which they slow down; the first gather and the last reduction show.
    """
    stages = []
    for stage in times.stages:
        parts = []
        for index, part in enumerate(stage.parts):
            forward = max(part.forward + slowdown * part.gather, part.gather)
            moved = part.gather + part.reduce
            backward = max(part.backward + slowdown * moved, moved)
            gather = part.gather if index == 0 else 0.0
            reduce = part.reduce if index == 0 else 0.0
            parts.append(PartTimes(gather, forward, backward, reduce, part.tied))
        stages.append(replace(stage, parts=tuple(parts)))
    return replace(times, stages=tuple(stages))


def peak_memory(made: CasePlan) -> MemoryParts:
    """The parts of the stage that needs most.

    With v chunks per stage the first of p stages keeps (p - 1)/(p v) more than p
    micro-batches of its layers (Korthikanti et al. 2022, section 4.2.3).
    """
    plan, case = made.plan, made.case
    how = made.cost.execution
    plan = replace(
        plan, workload=split_by_tokens(plan.workload, how.context, how.sequence_parallel)
    )
    parts = memory_parts(plan)
    if case.interleave > 1:
        more = 1 + (case.pp - 1) / (case.pp * case.interleave)
        parts = tuple(replace(one, activations=one.activations * more) for one in parts)
    return max(parts, key=lambda one: one.total)


def blocking(times: PipelineTimes, chunks: int, fixed: float) -> PipelineTimes:
    """Transfers that a stage waits for instead of computing under them, as in Megatron-LM.

    Each micro-batch costs its receiver one transfer per direction and chunk, and
    ``fixed`` seconds to wait for the device and start again.
    """
    last = len(times.stages) - 1
    stages = []
    for index, stage in enumerate(times.stages):
        first_chunk = 1 if index > 0 else 0
        last_chunk = 1 if index < last else 0
        down = times.down[index - 1] if index > 0 else 0.0
        up = times.up[index] if index < last else 0.0
        if chunks > 1:
            # Chunks follow one another around the ring of stages, so the ends receive, too.
            down, up = max(down, *times.down), max(up, *times.up)
            first_chunk = last_chunk = chunks
        parts = list(stage.parts)
        parts[0] = replace(parts[0], forward=parts[0].forward + first_chunk * (down + fixed))
        parts[-1] = replace(parts[-1], backward=parts[-1].backward + last_chunk * (up + fixed))
        stages.append(replace(stage, parts=tuple(parts)))
    none = (0.0,) * last
    return replace(times, stages=tuple(stages), down=none, up=none)
