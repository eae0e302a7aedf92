"""What each schedule leaves idle, measured on virtual devices against its closed form.

Four ranks sleep 50 ms or more in every slot; the network carries small activations. The
bubble is read off the recorded spans: the share of a step in which a rank computes nothing,
the mean over the ranks.
"""

from __future__ import annotations

import argparse
import tempfile
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
    "{name: four-hosts, clusters: [{name: c0, nodes: 4, device: {kind: cpu-core}, "
    "nics: [{kind: ethernet, gbit_s: 2}]}], rehearsal: {scale: 1}}"
)
SCHEDULES = {
    "gpipe": "schedule: gpipe",
    "1f1b": "schedule: 1f1b, extra_warmup: 0",
    "interleaved": "schedule: interleaved, virtual_stages: 2",
    "looped-bfs": "schedule: looped-bfs, virtual_stages: 2",
    "zero-bubble": "schedule: zero-bubble, extra_warmup: 0",
}


def job(parallel: str) -> ResolvedJob:
    """Eight blocks on four ranks, one or two stages each."""
    return resolve_job(
        None,
        [
            f"site={SITE}",
            "model={preset: gpt-5m, layers: 8, sequence: 64, vocabulary: 512, tied: false}",
            f"batch={{global: {MICROBATCHES}, micro: 1}}",
            f"parallel={{pipeline: {RANKS}, data: 1, partition: even, {parallel}}}",
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


def measure(folder: Path) -> dict[str, Any]:
    """Every schedule once: predicted and measured bubble, and the peaks of activations."""
    quiet = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    jobs = {name: job(parallel) for name, parallel in SCHEDULES.items()}
    found: dict[str, Any] = {}
    with Rehearsal(jobs["1f1b"], folder / "logs", quiet) as rehearsal:
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
                f"{name:12s} closed form {closed:6.2%}, measured "
                f"{found[name]['measured']['median']:6.2%}",
                flush=True,
            )
    return found


def main() -> None:
    """Measure and write the record."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()

    def body() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            schedules = measure(Path(folder))
        return {
            "schedules": schedules,
            "largest_points_off": max(abs(one["points_off"]) for one in schedules.values()),
            "sizes": f"{RANKS} ranks, {MICROBATCHES} micro-batches, "
            f"{FORWARD_MS} and {BACKWARD_MS} ms a block, two blocks a rank",
        }

    record.write("schedules", record.with_drift(body))


if __name__ == "__main__":
    main()
