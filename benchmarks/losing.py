"""Where the placement gains little or nothing, in the paper-shaped setting.

Many micro-batches hide the network behind computation (and few expose it); on one cluster
there is nothing to choose; links that are fast enough make every placement alike.
"""

from __future__ import annotations

from typing import Any

import arms
import record
from setting import (
    HOLMES,
    MEGATRON,
    MEGATRON_OVERLAP,
    SIZES,
    hybrid_site,
    job,
    one_cluster,
    solve_rates,
)

STEPS = 5
FAST_GBIT_S = 2.0
"""Of every card; the link between the clusters carries twice that, the most that is shaped."""


def cases(rates: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Arms by case: megatron as it is with few and many micro-batches, else like for like."""
    hybrid = hybrid_site(rates)
    fast = hybrid_site(dict.fromkeys(rates, FAST_GBIT_S))
    one = one_cluster(rates, "infiniband")
    found = {
        f"{count} micro-batches": {
            "megatron": job(hybrid, MEGATRON, count),
            "holmes": job(hybrid, HOLMES, count),
        }
        for count in (4, 16)
    }
    for case, site in (("one cluster", one), ("fast links", fast)):
        found[case] = {
            "megatron with overlap": job(site, MEGATRON_OVERLAP),
            "holmes": job(site, HOLMES),
        }
    return found


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    rates = solve_rates()
    found: dict[str, Any] = {}
    resolution: dict[str, Any] = {}
    for case, jobs in cases(rates).items():
        print(case)
        baseline = next(iter(jobs))
        if baseline != "megatron":
            jobs = arms.with_again(jobs, "holmes")
        measured = arms.alternate(jobs, rounds=rounds, steps=STEPS)
        found[case] = {
            "baseline": baseline,
            "arms": measured,
            "gain": arms.gain(measured, baseline, "holmes"),
        }
        if baseline != "megatron":
            resolution[case] = arms.resolution(measured)
    many = found["16 micro-batches"]["gain"]
    return {
        "headline": record.headline(
            "step, megatron over holmes, 16 micro-batches", "megatron", many
        ),
        "rates_gbit_s": rates,
        "fast_gbit_s": FAST_GBIT_S,
        "cases": found,
        "resolution": resolution,
        "sizes": SIZES,
    }


if __name__ == "__main__":
    record.main("losing", figures, rounds=3)
