"""Why a step takes longer than predicted, or than another run's."""

from __future__ import annotations

from collections import defaultdict
from statistics import median_low

from holmes.errors import DataError
from holmes.events.chain import CauseKind, Difference, chain, differences
from holmes.events.order import Order, order_of
from holmes.events.span import Timeline
from holmes.plan import Plan
from holmes.plan.program import program_of
from holmes.report.cases import Case
from holmes.report.causes import Cause, Comparison, causes, ordered
from holmes.report.run_data import RunData
from holmes.schedule.instruction import COMPUTE_OPS
from holmes.simulate.meetings import program_ranks


def compare_run(run: RunData, step: int | None = None) -> Comparison:
    """A run's prediction against one measured step, by default the most typical one.

    Raises:
        DataError: the run has no plan, trace or prediction, or no such step in its trace.
    """
    plan = _plan_of(run)
    if not run.predicted.spans:
        raise DataError(
            f"{run.name} has no predicted.jsonl to compare with",
            next_step="give a plan and the trace: `holmes compare plan.json trace.jsonl`",
        )
    chosen = _step_of(run, step)
    predicted = run.predicted.step(run.predicted.spans[0].step)
    measured = run.measured.step(chosen)
    order = _order(plan)
    found = differences(predicted, measured, order) + _outside(run, chosen, measured)
    return Comparison(
        f"{run.name}, predicted",
        f"{run.name}, measured (step {chosen})",
        predicted.makespan,
        measured.makespan + sum(one.nanoseconds for one in found if one.cause == "outside"),
        causes(plan, order, found),
    )


def compare_cases(first: Case, second: Case) -> Comparison:
    """One plan simulated on two sites."""
    order = _order(first.plan)
    one, other = first.simulation.timeline, second.simulation.timeline
    found = differences(one, other, order)
    made = causes(second.plan, order, found)
    return Comparison(first.name, second.name, one.makespan, other.makespan, made)


def compare_trace(
    plan: Plan, predicted: Timeline, measured: Timeline, *, step: int | None = None
) -> Comparison:
    """A simulated step against one step of a trace, by default the median one.

    Raises:
        DataError: the trace is empty or not of this plan.
    """
    steps = sorted({span.step for span in measured.spans})
    if not steps:
        raise DataError("the trace has no spans", next_step="trace at least one step")
    lengths = {step: measured.step(step).makespan for step in steps}
    middle = median_low(lengths.values())
    chosen = next(s for s in steps if lengths[s] == middle) if step is None else step
    if chosen not in steps:
        raise DataError(
            f"the trace has no step {chosen}", why=f"its steps: {', '.join(map(str, steps))}"
        )
    one = measured.step(chosen)
    order = _order(plan)
    found = differences(predicted, one, order)
    return Comparison(
        f"{plan.name}, simulated",
        f"measured (step {chosen})",
        predicted.makespan,
        one.makespan,
        causes(plan, order, found),
    )


def compare_runs(first: RunData, second: RunData, step: int | None = None) -> Comparison:
    """Two measured runs: by instruction where they ran one plan, else chain against chain.

    Raises:
        DataError: a run has no plan or trace.
    """
    plans = _plan_of(first), _plan_of(second)
    steps = [_step_of(run, step) for run in (first, second)]
    one, other = (run.measured.step(s) for run, s in zip((first, second), steps, strict=True))
    outside = [_outside(first, steps[0], one), _outside(second, steps[1], other)]
    around = [sum(d.nanoseconds for d in found) for found in outside]
    beyond = [Difference("outside", None, None, *around)] if any(around) else []
    names = [f"{r.name} (step {s})" for r, s in zip((first, second), steps, strict=True)]
    lengths = (one.makespan + around[0], other.makespan + around[1])
    if plans[0].schedule.digest == plans[1].schedule.digest:
        order = _order(plans[1])
        found = differences(one, other, order) + beyond
        return Comparison(names[0], names[1], *lengths, causes(plans[1], order, found))
    totals = [_totals(plan, each) for plan, each in zip(plans, (one, other), strict=True)]
    made = [
        Cause(cause, where, 1, totals[0].get((cause, where), 0), totals[1].get((cause, where), 0))
        for cause, where in dict.fromkeys([*totals[0], *totals[1]])
    ]
    made += causes(plans[1], _order(plans[1]), beyond)
    note = "The runs have different plans: their chains are compared as a whole."
    return Comparison(names[0], names[1], *lengths, ordered(made), (note,))


def _totals(plan: Plan, timeline: Timeline) -> dict[tuple[CauseKind, str], int]:
    """Nanoseconds of a step's chain by cause: computations by kind, transfers by network, gaps."""
    order = _order(plan)
    totals: dict[tuple[CauseKind, str], int] = defaultdict(int)
    stopped = 0
    for element in chain(timeline, order):
        ins = order.instructions[element.id]
        totals["waiting", "on a rank that is ready but has not started"] += element.begin - stopped
        group = plan.group_by_name.get(ins.group or "")
        network = group.transport.name if group else "unknown network"
        kind: CauseKind = "compute" if ins.op in COMPUTE_OPS else "transfer"
        where = str(ins.op) if kind == "compute" else f"{network}, {group.axis if group else ''}"
        totals[kind, where] += element.stop - element.begin
        stopped = element.stop
    return totals


def _outside(run: RunData, step: int, measured: Timeline) -> list[Difference]:
    """What the barrier-to-barrier time of a step has beyond its spans."""
    told = next((m.step_seconds for m in run.metrics if m.step == step), None)
    if told is None:
        return []
    return [Difference("outside", None, None, 0, round(told * 1e9) - measured.makespan)]


def _order(plan: Plan) -> Order:
    return order_of(program_of(plan), program_ranks(plan))


def _plan_of(run: RunData) -> Plan:
    if run.plan is None:
        raise DataError(f"{run.name} has no plan.json", why="instructions are joined by its ids")
    return run.plan


def _step_of(run: RunData, step: int | None) -> int:
    traced = sorted({span.step for span in run.measured.spans})
    chosen = run.typical_step if step is None else step
    if chosen is None or chosen not in traced:
        raise DataError(
            f"{run.name} has no trace of step {step}" if traced else f"{run.name} has no trace",
            why=f"traced steps: {', '.join(map(str, traced))}" if traced else None,
            next_step="run it with train.trace_steps=5" if not traced else "choose one of these",
        )
    return chosen
