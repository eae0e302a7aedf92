"""What watching costs: processor seconds per step and rank, as a share of the step's.

Real ranks on shaped hosts. The seconds inside all that a step does to be watched are counted
(`watching_ranks.py` has the list). The second witness are runs in turn in which nothing is
published, recorded or remembered; the watched arm also runs against itself, which shows what
that comparison can resolve. Wall time is not compared: waiting hides such costs.

Most of it is one pass over those of a rank's own gradients that an exchange overwrites, so the
share is larger the fewer tokens a rank has in a step: the small batch shows it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import arms
import record
from holmes.job.resolve import ResolvedJob
from holmes.train.planning import default_calibration
from holmes.train.rehearsal import Rehearsal
from holmes.train.run_folder import make_run_folder
from holmes.train.show import Progress

STEPS, WARM_UP, DEADLINE = 12, 2, 300.0
ARMS = {"watched": True, "not watched": False, "watched again": True}
LIMIT = 0.01
SEQUENCE, RANKS = 128, 2
LARGE, SMALL = 16, 4
"""Samples of a step."""
SITE = (
    "{name: flat, clusters: [{name: a, nodes: 2, device: {kind: cpu-core, count: 1}, "
    "nics: [{kind: ethernet, gbit_s: 1.0}]}], rehearsal: {scale: 1}}"
)
SIZES = f"gpt-5m at sequence {SEQUENCE}, dp {RANKS} on two hosts, {STEPS} steps a run"


def job(samples: int) -> ResolvedJob:
    """What both arms train."""
    return arms.settings(
        f"site={SITE}",
        f"model={{preset: gpt-5m, sequence: {SEQUENCE}, vocabulary: 2048, tied: false}}",
        "data={vocabulary: 2048}",
        f"batch={{global: {samples}, micro: 1}}",
        f"parallel={{pipeline: 1, data: {RANKS}, sharding: optimizer}}",
        f"train={{steps: {STEPS}, trace_steps: 0, evaluate_batches: 0}}",
    )


def run(
    rehearsal: Rehearsal, folder: Path, samples: int, *, watched: bool
) -> tuple[float, dict[str, float]]:
    """Processor seconds of one step, and the shares of them that each part of watching took:
    means over steps and ranks after the warm-up."""
    resolved = job(samples)
    make_run_folder(folder, keep=False)
    plan = rehearsal.plan(resolved)
    given = rehearsal._assignment(resolved.job, plan, folder, steps=STEPS, save=False)
    ranks = rehearsal.session.run(
        "watching_ranks:train",
        {"assignment": given.to_json(), "watched": watched},
        deadline_seconds=DEADLINE,
        operation_seconds=DEADLINE,
    )
    step = fmean(fmean(rank["seconds"][WARM_UP:]) for rank in ranks)
    counted = [inside for rank in ranks for inside in rank["watching"][WARM_UP:]]
    parts = {name: fmean(one.get(name, 0.0) for one in counted) for name in counted[0]}
    return step, {name: seconds / step for name, seconds in parts.items()}


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    silent = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    shares: dict[int, list[float]] = {LARGE: [], SMALL: []}
    parts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        with Rehearsal(job(LARGE), base / "logs", silent) as rehearsal:
            rehearsal.calibration = default_calibration(job(LARGE))
            for number in range(rounds):
                for arm, watched in ARMS.items():
                    step, inside = run(rehearsal, base / f"{number}-{arm}", LARGE, watched=watched)
                    found[arm].append(step)
                    if watched:
                        shares[LARGE].append(sum(inside.values()))
                        parts = inside
                    print(f"{number + 1}: {arm:14s} {step:.4f} s, {sum(inside.values()):.3%}")
                _, inside = run(rehearsal, base / f"{number}-small", SMALL, watched=True)
                shares[SMALL].append(sum(inside.values()))
                print(f"{number + 1}: small batch    {sum(inside.values()):.3%}", flush=True)
    tokens = {samples: samples * SEQUENCE // RANKS for samples in shares}
    large = {**record.spread(shares[LARGE]), "pairs": len(shares[LARGE])}
    return {
        "headline": record.headline(
            "processor seconds spent on watching, as a share of a step's", "the step", large
        ),
        "sizes": SIZES,
        "limit": LIMIT,
        "shares": {
            f"{tokens[samples]} tokens a rank": {**record.spread(values), "worst": max(values)}
            for samples, values in shares.items()
        },
        "parts": parts,
        "step_seconds": {arm: record.spread(values) for arm, values in found.items()},
        "watched_over_not": record.paired_ratio(found["watched"], found["not watched"]),
        "resolution": {"watched": record.paired_ratio(found["watched"], found["watched again"])},
        "each": found,
    }


if __name__ == "__main__":
    record.main("watching", figures, rounds=4)
