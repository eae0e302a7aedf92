"""Predicted against measured step time, real compute, on several sites and placements.

A session measures blocks and links before its plans are made, so a prediction never sees a
step. The site with unseen rates is predicted with what was measured on the demo's site.
"""

from __future__ import annotations

from typing import Any

import arms
import record
from demo import JOB, PLACEMENTS
from holmes.cost.calibration import Calibration
from holmes.job.resolve import ResolvedJob, resolve_job
from setting import hybrid_site, one_cluster

STEPS = 10
LIMIT = 0.15
"""How far a prediction may be off."""
UNSEEN = "unseen rates"
UNSEEN_RATES = {"infiniband": 0.45, "roce": 0.28, "ethernet": 0.07}
HOMOGENEOUS_RATES = {"infiniband": 1.0, "ethernet": 0.1}
SITES = {
    "demo": "demo",
    "homogeneous": one_cluster(HOMOGENEOUS_RATES, "infiniband"),
    UNSEEN: hybrid_site(UNSEEN_RATES),
}


def job(site: str, placement: str) -> ResolvedJob:
    """The demo's model on another site."""
    fixed = {"placement": placement}
    return resolve_job(JOB, [f"site={site}", "train.evaluate_batches=0"], fixed)


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    sites: dict[str, Any] = {}
    elsewhere = arms.calibrate(job(SITES["demo"], "holmes"))
    for name, site in SITES.items():
        print(name)
        known = elsewhere if name == UNSEEN else None

        def body(site: str = site, known: Calibration | None = known) -> dict[str, Any]:
            jobs = {placement: job(site, placement) for placement in PLACEMENTS}
            return {"arms": arms.alternate(jobs, rounds=rounds, steps=STEPS, calibration=known)}

        sites[name] = record.with_drift(body)
        for arm in sites[name]["arms"].values():
            arm["error"] = arm["predicted"] / arm["median"] - 1
    errors = [abs(arm["error"]) for site in sites.values() for arm in site["arms"].values()]
    return {
        "headline": record.headline(
            "absolute error of the predicted step",
            "measured median",
            {**record.spread(errors), "pairs": len(errors)},
        ),
        "sites": sites,
        "worst": max(errors),
        "within_limit": sum(error <= LIMIT for error in errors),
        "compared": len(errors),
        "limit": LIMIT,
        "rates_gbit_s": {"homogeneous": HOMOGENEOUS_RATES, UNSEEN: UNSEEN_RATES},
        "sizes": f"gpt-5m at sequence 64, pp 2, dp 2, 8 micro-batches, {STEPS} steps a run",
    }


if __name__ == "__main__":
    record.main("prediction", figures, rounds=2)
