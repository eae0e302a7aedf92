"""A calibration from own runs: a table of step times, or the trace of one run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from holmes.accuracy.calibrate_network import with_traced_links
from holmes.accuracy.fitting import LEAST_INTERVAL, fitted, timed_cases
from holmes.accuracy.table import read_table
from holmes.cost.calibration import (
    DEFAULT,
    BlockTime,
    Calibration,
    calibration_from_dict,
)
from holmes.cost.fit import Coefficient
from holmes.cost.model import CostModel
from holmes.cost.split import weight_seconds
from holmes.errors import DataError, WriteError
from holmes.events.span import Span
from holmes.events.trace import read_trace
from holmes.hardware.topology import DeviceSlot, Topology
from holmes.plan.codec import read_plan
from holmes.plan.plan import Plan
from holmes.plan.program import program_of
from holmes.schedule.instruction import COMPUTE_OPS, Op
from holmes.simulate.closed_form import step_seconds

OWN = (
    ("compute.matmul_fraction", 0.5, 1.0),
    ("compute.memory_fraction", 0.5, 1.0),
    ("compute.host_seconds", 1e-6, 3e-4),
    ("compute.step_launch_seconds", 1e-5, 1.0),
)
"""What a table of own runs may change, with bounds; the prior is the built-in value."""
OWN_TOLERANCE = 0.5
PARTS = (Op.INPUT_GRADIENT, Op.WEIGHT_GRADIENT)
"""Of a divided backward."""


def calibrate_table(table: Path, sites: Path, start: Calibration = DEFAULT) -> Calibration:
    """Fit a few coefficients to a table of own runs; the others stay as they are.

    Raises:
        DataError: the table has no usable row.
    """
    cases = timed_cases(read_table(table), sites, start)
    coefficients = []
    data = start.to_dict()
    for path, low, high in OWN:
        value = float(data["compute"][path.removeprefix("compute.")])
        prior = min(max(value, low), high)
        coefficients.append(Coefficient(path, prior, low, high, OWN_TOLERANCE))
    found = fitted(cases, start, coefficients)
    return replace(
        found.calibration,
        name=table.stem,
        source=f"{start.name}, fitted to {len(cases)} runs of {table.name}; "
        f"the interval holds 90 % of them",
    )


def calibrate_trace(source: Path) -> Calibration:
    """Block times and optimiser time of a run, per device kind, from its trace.

    The times of the run's own calibration are scaled by the median ratio of measured to
    predicted compute, forward and backward apart, and the links by what the run's traffic took
    (see :mod:`holmes.accuracy.calibrate_network`).

    Raises:
        DataError: no trace, no plan beside it, or no compute in it.
    """
    folder = source if source.is_dir() else source.parent
    trace = source / "trace.jsonl" if source.is_dir() else source
    spans = read_trace(trace).spans
    plan = read_plan(folder / "plan.json")
    start = calibration_from_dict(plan.calibration, where=f"{folder / 'plan.json'}: calibration")
    cost = CostModel(Topology(plan.site), plan.workload, start)
    ratios = _ratios(plan, cost, spans)
    if not any(op is not Op.STEP for _, op in ratios):
        raise DataError(
            "the trace has no forward or backward of this plan",
            where=str(trace),
            next_step="give the folder of a run that finished at least one step",
        )
    blocks = {kind: _block_times(plan, cost, kind, ratios) for kind in _kinds(plan, cost)}
    steps = [ratio for (_, op), found in ratios.items() if op is Op.STEP for ratio in found]
    linked = with_traced_links(plan, cost, spans)
    what = "compute" if linked is start else "compute and links"
    made = linked.with_blocks(
        blocks,
        micro=plan.batch.micro,
        source=f"{start.name}, {what} of {folder.name} ({len(spans)} spans)",
        optimizer_seconds_per_element=_per_element(cost, steps),
    )
    return replace(made, name=folder.name, interval=_interval(plan, made, spans))


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration file.

    Raises:
        WriteError: it cannot be written.
    """
    try:
        path.write_text(json.dumps(calibration.to_dict(), indent=1) + "\n")
    except OSError as error:
        raise WriteError(f"cannot write: {error.strerror}", where=str(path)) from None


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        DataError: it is missing, no JSON, or no calibration.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror}", where=str(path)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"the calibration is not JSON: {error}", where=str(path)) from None
    return calibration_from_dict(data, where=str(path))


def _ratios(
    plan: Plan, cost: CostModel, spans: Sequence[Span]
) -> dict[tuple[str, Op], list[float]]:
    """Measured over predicted seconds of compute, by device kind and operation."""
    instructions = {
        (rank, ins.id): ins
        for rank, mine in enumerate(program_of(plan).ranks)
        for ins in mine
        if ins.op in COMPUTE_OPS
    }
    found: dict[tuple[str, Op], list[float]] = defaultdict(list)
    for span in spans:
        instruction = instructions.get((span.rank, span.id))
        if instruction is None:
            continue
        predicted = cost.compute_seconds(plan, span.rank, instruction)
        slot = cost.topology.devices[plan.rank_map[span.rank]]
        if predicted > 0.0:
            ratio = (span.stop - span.start) * 1e-9 / predicted
            found[cost.device(slot).name, instruction.op].append(ratio)
    return found


def _kinds(plan: Plan, cost: CostModel) -> tuple[str, ...]:
    slots = (cost.topology.devices[index] for index in plan.rank_map)
    return tuple(dict.fromkeys(cost.device(slot).name for slot in slots))


def _block_times(
    plan: Plan, cost: CostModel, kind: str, ratios: dict[tuple[str, Op], list[float]]
) -> dict[str, BlockTime]:
    """Seconds of each kind of block without recomputation, at relative speed 1."""
    slot = next(slot for slot in cost.topology.devices if cost.device(slot).name == kind)
    forward = median(ratios.get((kind, Op.FORWARD)) or [1.0])
    parts = {op: median(ratios.get((kind, op)) or [1.0]) for op in PARTS}
    backward = _backward_ratio(plan, cost, slot, ratios)
    divided = all((kind, op) in ratios for op in PARTS)
    times = {}
    for index, block in enumerate(plan.workload.blocks):
        if block.kind not in times:
            plain = cost.block_time(index, slot, plan.batch.micro, plan.stages[0].layout.tp)
            plain = plain.scaled(slot.node.device.speed)
            found = BlockTime(plain.forward * forward, plain.backward * backward)
            if divided:
                found = _with_parts(found, plain, weight_seconds(block, plain), parts)
            times[str(block.kind)] = found
    return times


def _with_parts(
    found: BlockTime, plain: BlockTime, weight: float, ratios: Mapping[Op, float]
) -> BlockTime:
    """Block times with those of a backward in two parts, each as its ratio says."""
    rest = (plain.in_parts().backward - weight) * ratios[Op.INPUT_GRADIENT]
    weight *= ratios[Op.WEIGHT_GRADIENT]
    return replace(found, weight=weight, dividing=rest + weight - found.backward)


def _backward_ratio(
    plan: Plan, cost: CostModel, slot: DeviceSlot, ratios: dict[tuple[str, Op], list[float]]
) -> float:
    """Measured over predicted backward; of one in two parts, that of both together."""
    kind = cost.device(slot).name
    whole = ratios.get((kind, Op.BACKWARD))
    parts = [ratios.get((kind, op)) for op in PARTS]
    if whole or not all(parts):
        return median(whole or [1.0])
    blocks, tp = (0, len(plan.workload.blocks)), plan.stages[0].layout.tp
    weight = cost.weight_seconds(blocks, slot, plan.batch.micro, tp)
    both = cost.blocks_time(blocks, slot, plan.batch.micro, tp).in_parts().backward
    found = [median(part) for part in parts if part]
    return (found[0] * (both - weight) + found[1] * weight) / both


def _per_element(cost: CostModel, ratios: Sequence[float]) -> float | None:
    if not ratios:
        return cost.calibration.optimizer_seconds_per_element
    slot = cost.topology.devices[0]
    many = 1e9
    scale = slot.node.device.speed / many
    return median(ratios) * cost.optimizer_seconds(many, slot) * scale


def _interval(plan: Plan, made: Calibration, spans: Sequence[Span]) -> float:
    """Relative error of the step under the new calibration, on the run's median step."""
    ends: dict[int, list[int]] = defaultdict(list)
    for span in spans:
        ends[span.step] += [span.start, span.stop]
    measured = median((max(times) - min(times)) * 1e-9 for times in ends.values())
    predicted = step_seconds(plan, CostModel(Topology(plan.site), plan.workload, made))
    return max(LEAST_INTERVAL, round(abs(predicted / measured - 1), 3))
