"""What a schedule gains over 1F1B where micro-batches are few: virtual devices, paired runs.

Four stages and four micro-batches, so that a bubble of 1F1B takes 3/7 of a step. The last arm
is a losing case: with many micro-batches little is left to gain.
"""

from __future__ import annotations

from typing import Any

import arms
import record
import schedules
from holmes.job.resolve import ResolvedJob, resolve_job

STEPS = 4
FEW, MANY = 4, 16
FORWARD_MS, BACKWARD_MS = 25, 50
ARMS = ("1f1b", "interleaved", "zero-bubble", "looped-bfs")


def job(schedule: str, microbatches: int) -> ResolvedJob:
    """The job of the schedules benchmark with other micro-batches."""
    base = schedules.job(schedules.Point(schedules.SCHEDULES[schedule]))
    return resolve_job(
        None,
        [
            f"site={schedules.SITE % schedules.RANKS}",
            f"model={base.job.model}",
            f"batch={{global: {microbatches}, micro: 1}}",
            f"parallel={{pipeline: {schedules.RANKS}, data: 1, partition: even, "
            f"{schedules.SCHEDULES[schedule]}}}",
            f"rehearsal={{devices: virtual, forward_ms: {FORWARD_MS}, backward_ms: {BACKWARD_MS}}}",
            "train={trace_steps: 0, evaluate_batches: 0}",
        ],
        {},
    )


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    cases: dict[str, Any] = {}
    for microbatches in (FEW, MANY):
        jobs = {name: job(name, microbatches) for name in ARMS}
        found = arms.alternate(arms.with_again(jobs, "1f1b"), rounds=rounds, steps=STEPS)
        gains = {name: arms.gain(found, "1f1b", name) for name in ARMS if name != "1f1b"}
        cases[f"{microbatches} micro-batches"] = {"arms": found, "gains": gains}
    few = cases[f"{FEW} micro-batches"]
    return {
        "headline": record.headline(
            f"1F1B over interleaved, {FEW} micro-batches on {schedules.RANKS} stages",
            "1F1B in the same session",
            few["gains"]["interleaved"],
        ),
        "cases": cases,
        "resolution": {name: arms.resolution(case["arms"]) for name, case in cases.items()},
        "sizes": f"{schedules.RANKS} ranks, 8 transformer blocks, {FORWARD_MS} and "
        f"{BACKWARD_MS} ms a block, {STEPS} steps a run",
    }


if __name__ == "__main__":
    record.main("schedule_gains", figures, rounds=3)
