"""How much of the sharded optimiser's traffic stays exposed, from measured traces.

Four replicas on one fabric, virtual devices. The reduction of a bucket can hide under the
backward of the blocks before it, the gathering under the forward: with a long backward nearly
all hides, but for the last bucket; with a short one most cannot.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, median
from typing import Any

import arms
import record
from holmes.events.span import Timeline
from holmes.job.resolve import ResolvedJob
from holmes.plan.plan import Plan
from holmes.simulate.summary import summarize
from setting import one_cluster

STEPS = 6
RATES = {"infiniband": 0.5, "ethernet": 0.25}
"""Slow enough that carrying the bytes takes the processors little time."""
BACKWARD_MS = {"long backward": 40, "medium backward": 16, "short backward": 4}
ARMS = {"no overlap": "false", "overlap": "true"}


def job(backward_ms: int, overlap: str) -> ResolvedJob:
    """Data parallelism alone; forward takes half of backward."""
    times = f"forward_ms: {backward_ms / 2}, backward_ms: {backward_ms}"
    return arms.settings(
        f"site={one_cluster(RATES, 'infiniband')}",
        "model={preset: gpt-1m, layers: 12, sequence: 64, vocabulary: 1024, tied: false}",
        "batch={global: 8, micro: 1}",
        f"parallel={{pipeline: 1, data: 4, sharding: optimizer, overlap: {overlap}}}",
        f"rehearsal={{devices: virtual, {times}}}",
        "train={evaluate_batches: 0}",
    )


def exposure(step: Timeline) -> dict[str, float]:
    """Mean over ranks of the seconds that the data group moves bytes, and of those exposed."""
    summary = summarize(step)
    lanes = {lane for by_lane in summary.transfer_seconds.values() for lane in by_lane}
    data = [lane for lane in lanes if lane.startswith("comm:data")]

    def of(seconds: dict[int, dict[str, float]]) -> float:
        return fmean(sum(by_lane.get(lane, 0.0) for lane in data) for by_lane in seconds.values())

    return {"transfer": of(summary.transfer_seconds), "exposed": of(summary.exposed_seconds)}


def inspect(run: Path, plan: Plan) -> dict[str, Any]:
    """Transfer and exposed seconds of a run: medians over its traced steps."""
    steps = [exposure(step) for step in arms.measured_steps(run)]
    return {key: median(step[key] for step in steps) for key in ("transfer", "exposed")}


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    cases: dict[str, Any] = {}
    resolution: dict[str, Any] = {}
    for case, backward_ms in BACKWARD_MS.items():
        print(case)
        jobs = {name: job(backward_ms, overlap) for name, overlap in ARMS.items()}
        measured = arms.alternate(
            arms.with_again(jobs, "overlap"), rounds=rounds, steps=STEPS, inspect=inspect
        )
        for arm in measured.values():
            shares = [e / t for e, t in zip(arm["exposed"], arm["transfer"], strict=True)]
            arm["exposed_share"] = record.spread(shares)
        cases[case] = {
            "backward_ms": backward_ms,
            "arms": measured,
            "gain": arms.gain(measured, "no overlap", "overlap"),
        }
        resolution[case] = arms.resolution(measured)
    share = cases["long backward"]["arms"]["overlap"]["exposed_share"]
    return {
        "headline": record.headline(
            "exposed share of the optimiser's traffic, long backward",
            "no overlap: all of it",
            {**share, "pairs": rounds},
        ),
        "rates_gbit_s": RATES,
        "cases": cases,
        "resolution": resolution,
        "sizes": "dp 4, 12 transformer blocks, 2 micro-batches",
    }


if __name__ == "__main__":
    record.main("overlap", figures, rounds=3)
