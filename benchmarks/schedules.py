"""What each schedule leaves idle, measured on virtual devices against its closed form.

Ranks sleep 50 ms or more in every slot; the network carries small activations. The
bubble is read off the recorded spans: the share of a step in which a rank computes nothing,
the mean over the ranks. Beside every schedule on four ranks there is a grid of ranks,
micro-batches and virtual stages.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
from holmes.cost.model import CostModel
from holmes.events.trace import read_trace
from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.plan.plan import Plan
from holmes.plan.program import schedule_of
from holmes.schedule.bubble import predicted_bubble_fraction
from holmes.schedule.timeline import Durations, activation_peaks
from holmes.simulate.summary import summarize
from holmes.train.rehearsal import Rehearsal
from holmes.train.show import Progress

RANKS, MICROBATCHES, STEPS = 4, 8, 3
FORWARD_MS, BACKWARD_MS = 50, 100
SITE = (
    "{name: hosts, clusters: [{name: c0, nodes: %d, device: {kind: cpu-core}, "
    "nics: [{kind: ethernet, gbit_s: 2}]}], rehearsal: {scale: 1}}"
)
SCHEDULES = {
    "gpipe": "schedule: gpipe",
    "1f1b": "schedule: 1f1b, extra_warmup: 0",
    "interleaved": "schedule: interleaved, virtual_stages: 2",
    "looped-bfs": "schedule: looped-bfs, virtual_stages: 2",
    "zero-bubble": "schedule: zero-bubble, extra_warmup: 0",
}


@dataclass(frozen=True)
class Point:
    """One schedule; every rank is a host."""

    parallel: str
    ranks: int = RANKS
    microbatches: int = MICROBATCHES


def points() -> dict[str, Point]:
    """Every schedule, then the grid."""
    grid = {
        f"{name}, {ranks} ranks, {count} micro-batches": Point(SCHEDULES[name], ranks, count)
        for name in ("1f1b", "interleaved")
        for ranks in (2, RANKS)
        for count in (4, MICROBATCHES)
        if (ranks, count) != (RANKS, MICROBATCHES)
    }
    return {**{name: Point(parallel) for name, parallel in SCHEDULES.items()}, **grid}


def job(point: Point) -> ResolvedJob:
    """Eight blocks on the ranks, one or two stages each."""
    return resolve_job(
        None,
        [
            f"site={SITE % point.ranks}",
            "model={preset: gpt-5m, layers: 8, sequence: 64, vocabulary: 512, tied: false}",
            f"batch={{global: {point.microbatches}, micro: 1}}",
            f"parallel={{pipeline: {point.ranks}, data: 1, partition: even, {point.parallel}}}",
            f"rehearsal={{devices: virtual, forward_ms: {FORWARD_MS}, backward_ms: {BACKWARD_MS}}}",
            f"train={{trace_steps: {STEPS}, evaluate_batches: 0}}",
        ],
        {},
    )


def durations_of(plan: Plan, cost: CostModel) -> Durations:
    """Seconds of one micro-batch on one stage; all stages are alike."""
    start, stop = plan.stages[1].blocks
    slot = cost.topology.devices[0]
    time = cost.blocks_time((start, stop), slot, plan.batch.micro)
    weight = cost.weight_seconds((start, stop), slot, plan.batch.micro)
    return Durations(time.forward, time.backward, weight)


def measure(folder: Path, points: Mapping[str, Point]) -> dict[str, Any]:
    """Schedules of as many ranks, each once: bubble, predicted and measured, and activation
    peaks."""
    quiet = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    jobs = {name: job(point) for name, point in points.items()}
    found: dict[str, Any] = {}
    with Rehearsal(next(iter(jobs.values())), folder / "logs", quiet) as rehearsal:
        rehearsal.calibrate(1)
        for name, each in jobs.items():
            plan = rehearsal.plan(each)
            assert rehearsal.calibration is not None
            cost = CostModel(
                rehearsal.session.topology,
                plan.workload,
                rehearsal.calibration,
                rehearsal.session.rates,
            )
            run = folder / name
            rehearsal.run(each, plan, run, steps=STEPS, save=False)
            trace = read_trace(run / "trace.jsonl")
            steps = sorted({span.step for span in trace.spans})[1:]
            bubbles = [summarize(trace.step(step)).mean_bubble_fraction for step in steps]
            schedule = schedule_of(plan)
            closed = predicted_bubble_fraction(schedule, durations_of(plan, cost))
            assert closed is not None
            found[name] = {
                "closed_form": closed,
                "simulated": plan.predicted.bubble_fraction,
                "measured": record.spread(bubbles),
                "points_off": 100 * (record.spread(bubbles)["median"] - closed),
                "activation_peaks": list(activation_peaks(schedule)),
                "step_seconds": [trace.step(step).makespan * 1e-9 for step in steps],
            }
            print(
                f"{name:40s} closed form {closed:6.2%}, measured "
                f"{found[name]['measured']['median']:6.2%}",
                flush=True,
            )
    return found


def main() -> None:
    """Measure and write the record."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()

    def body() -> dict[str, Any]:
        schedules: dict[str, Any] = {}
        for ranks in (RANKS, 2):
            mine = {name: point for name, point in points().items() if point.ranks == ranks}
            with tempfile.TemporaryDirectory() as folder:
                schedules |= measure(Path(folder), mine)
        return {
            "schedules": schedules,
            "largest_points_off": max(abs(one["points_off"]) for one in schedules.values()),
            "sizes": f"{RANKS} ranks and {MICROBATCHES} micro-batches where not said "
            f"otherwise, {FORWARD_MS} and {BACKWARD_MS} ms a block, eight blocks",
        }

    record.write("schedules", record.with_drift(body))


if __name__ == "__main__":
    main()
