"""Arms of a benchmark: the same job under several settings, run in turn in one session."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import record
from holmes.cost.calibration import Calibration
from holmes.cost.model import CostModel
from holmes.events.span import Timeline
from holmes.events.trace import read_trace
from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.plan.plan import Plan
from holmes.simulate.bound import lower_bound_seconds
from holmes.simulate.events import simulate
from holmes.train.rehearsal import Rehearsal
from holmes.train.show import Progress

AGAIN = " again"
"""Ends the name of an arm that repeats another one: A against A, the resolution."""
FREE_GBIT_S = 1e6
"""Stands for links that take no time."""
Figures = dict[str, dict[str, Any]]
Inspect = Callable[[Path, Plan], dict[str, Any]]
"""(run folder, plan) -> figures of one run; each becomes a list with a value per round."""


def settings(*items: str) -> ResolvedJob:
    """A job from ``key=value`` settings alone."""
    return resolve_job(None, list(items), {})


def with_again(jobs: Mapping[str, ResolvedJob], name: str) -> dict[str, ResolvedJob]:
    """These arms, and the named one a second time."""
    return {**jobs, name + AGAIN: jobs[name]}


def calibrate(job: ResolvedJob) -> Calibration:
    """What a session of this job measures before it plans."""
    with tempfile.TemporaryDirectory() as folder, _session(job, folder) as rehearsal:
        return rehearsal.calibrate(job.job.batch.micro or 1)


def alternate(
    jobs: Mapping[str, ResolvedJob],
    *,
    rounds: int,
    steps: int,
    inspect: Inspect | None = None,
    calibration: Calibration | None = None,
) -> Figures:
    """Run every arm ``rounds`` times, alternating, in one session.

    Args:
        jobs: by arm; all of one site.
        steps: of one run; the median of those after the warm-up is one value of ``seconds``.
        calibration: predict with it; by default with what this session measures.

    Returns:
        By arm: ``seconds`` with median and quartiles, what was predicted (also with links
        that take no time), the bound, the cut, the last run's summary, and what ``inspect``
        found.
    """
    first = next(iter(jobs.values()))
    with tempfile.TemporaryDirectory() as folder, _session(first, folder) as rehearsal:
        rehearsal.calibration = calibration or rehearsal.calibrate(first.job.batch.micro or 1)
        plans = {name: rehearsal.plan(job) for name, job in jobs.items()}
        found: Figures = {name: _planned(plan, rehearsal) for name, plan in plans.items()}
        for turn in range(rounds):
            for index, (name, job) in enumerate(jobs.items()):
                run = Path(folder) / f"run-{turn}-{index}"
                summary = rehearsal.run(job, plans[name], run, steps=steps, save=False)
                more = inspect(run, plans[name]) if inspect else {}
                _keep(found[name], summary, more)
                seconds = summary["step_seconds"]["median"]
                print(f"round {turn + 1}: {name:36s} {seconds * 1e3:7.0f} ms", flush=True)
    for arm in found.values():
        arm |= record.spread(arm["seconds"])
    return found


def measured_steps(run: Path) -> list[Timeline]:
    """The traced steps of a run, each from 0 ns."""
    trace = read_trace(run / "trace.jsonl")
    return [trace.step(number) for number in sorted({span.step for span in trace.spans})]


def gain(found: Figures, slow: str, fast: str) -> dict[str, Any]:
    """How many times faster one arm is than another: ratios of the runs of each round."""
    return record.paired_ratio(found[slow]["seconds"], found[fast]["seconds"])


def resolution(found: Figures) -> dict[str, Any]:
    """The ratio of the arm that runs against itself."""
    again = next(name for name in found if name.endswith(AGAIN))
    return gain(found, again.removesuffix(AGAIN), again)


def _session(job: ResolvedJob, folder: str) -> Rehearsal:
    quiet = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    return Rehearsal(job, Path(folder) / "logs", quiet)


def _planned(plan: Plan, rehearsal: Rehearsal) -> dict[str, Any]:
    """What is known of an arm before it runs."""
    return {
        "seconds": [],
        "predicted": plan.predicted.step_seconds,
        "predicted_free_network": _free_network_seconds(plan, rehearsal),
        "bound": lower_bound_seconds(plan, _cost(plan, rehearsal)),
        "blocks": [list(stage.blocks) for stage in plan.stages],
        "extra_warmup": plan.schedule.extra_warmup,
        "clusters": [stage.cluster for stage in plan.stages],
    }


def _free_network_seconds(plan: Plan, rehearsal: Rehearsal) -> float:
    """The predicted step if bytes took no time: what compute and the schedule need."""
    free = dict.fromkeys(rehearsal.session.rates or {}, FREE_GBIT_S)
    assert rehearsal.calibration is not None
    cost = CostModel(rehearsal.session.topology, plan.workload, rehearsal.calibration, free or None)
    return simulate(plan, cost).makespan * 1e-9


def _cost(plan: Plan, rehearsal: Rehearsal) -> CostModel:
    assert rehearsal.calibration is not None
    session = rehearsal.session
    return CostModel(session.topology, plan.workload, rehearsal.calibration, session.rates)


def _keep(arm: dict[str, Any], summary: dict[str, Any], more: Mapping[str, Any]) -> None:
    arm["seconds"].append(summary["step_seconds"]["median"])
    for key in ("links", "devices", "bytes_per_step", "loss"):
        arm[key] = summary[key]
    for key, value in more.items():
        arm.setdefault(key, []).append(value)
