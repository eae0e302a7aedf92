"""The demo as a record: both placements in one session, with bytes, loss and predictions."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import arms
import record
from holmes.events.join import mean_shares, shares
from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.plan.plan import Plan

JOB = Path(__file__).parent.parent / "examples" / "demo.yaml"
PLACEMENTS = ("holmes", "megatron")


def job(placement: str) -> ResolvedJob:
    """The demo under one placement."""
    return resolve_job(JOB, [], {"placement": placement})


def inspect(run: Path, plan: Plan) -> dict[str, Any]:
    """The share of the step in which a rank idles while its network moves bytes.

    Mean over ranks, median over the traced steps. What a rank waits for transfers between
    others is not in it, so the network costs at least this much.
    """
    steps = [mean_shares(shares(step).values()) for step in arms.measured_steps(run)]
    return {"network_share": median(step.transfer / step.total for step in steps)}


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    jobs = {name: job(name) for name in PLACEMENTS}
    steps = jobs["holmes"].job.train.steps
    found = arms.alternate(
        arms.with_again(jobs, "holmes"), rounds=rounds, steps=steps, inspect=inspect
    )
    for arm in found.values():
        arm["network_share"] = record.spread(arm["network_share"])
        arm["network_share_predicted"] = 1 - arm["predicted_free_network"] / arm["predicted"]
    gain = arms.gain(found, "megatron", "holmes")
    return {
        "headline": record.headline("step, megatron over holmes", "megatron", gain),
        "arms": found,
        "gain": gain,
        "resolution": {"holmes": arms.resolution(found)},
        "sizes": f"gpt-5m at sequence 64, pp 2, dp 2, 8 micro-batches, {steps} steps a run",
    }


if __name__ == "__main__":
    record.main("demo", figures, rounds=3)
