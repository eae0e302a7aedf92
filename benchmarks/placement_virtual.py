"""Which part of Holmes gains what on a hybrid site, in the paper-shaped setting.

Arms alternate within one session. The homogeneous sites are measured too: that their
throughputs without overlap are as 1 : 0.81 : 0.62 is a result, not only a wish.
"""

from __future__ import annotations

from typing import Any

import arms
import record
from setting import (
    HOLMES,
    HOLMES_NO_OVERLAP,
    MEGATRON,
    MEGATRON_OVERLAP,
    MICROBATCHES,
    SIZES,
    THROUGHPUT,
    hybrid_site,
    job,
    one_cluster,
    solve_rates,
)

STEPS = 5
PARTS = {
    "megatron": MEGATRON,
    "+ per-group transport": MEGATRON.replace("common", "per-group"),
    "+ partition": MEGATRON.replace("common", "per-group").replace("even", "exact"),
    "+ extra warm-up": HOLMES_NO_OVERLAP,
    "+ overlap = holmes": HOLMES,
    "megatron with overlap": MEGATRON_OVERLAP,
}


def ablation(rates: dict[str, float], rounds: int) -> arms.Figures:
    """The hybrid site with the parts of Holmes added one by one, and Holmes against itself."""
    site = hybrid_site(rates)
    jobs = {name: job(site, parallel) for name, parallel in PARTS.items()}
    jobs = arms.with_again(jobs, "+ overlap = holmes")
    return arms.alternate(jobs, rounds=rounds, steps=STEPS)


def homogeneous(rates: dict[str, float], rounds: int) -> arms.Figures:
    """One fabric everywhere, without overlap; InfiniBand also as Holmes would run it."""
    found: arms.Figures = {}
    for kind in THROUGHPUT:
        site = one_cluster(rates, kind)
        jobs = {kind: job(site, MEGATRON)}
        if kind == "infiniband":
            jobs["infiniband, holmes"] = job(site, HOLMES)
        found |= arms.alternate(jobs, rounds=max(2, rounds - 1), steps=STEPS)
    return found


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    rates = solve_rates()
    found = ablation(rates, rounds)
    alone = homogeneous(rates, rounds)
    holmes = found["+ overlap = holmes"]
    best = alone["infiniband"]["median"]
    gains = {name: arms.gain(found, "megatron", name) for name in found}
    return {
        "headline": record.headline(
            "step, megatron over holmes", "megatron", gains["+ overlap = holmes"]
        ),
        "rates_gbit_s": rates,
        "arms": found,
        "gains": gains,
        "both_with_overlap": arms.gain(found, "megatron with overlap", "+ overlap = holmes"),
        "both_without_overlap": arms.gain(found, "megatron", "+ extra warm-up"),
        "resolution": {"holmes": arms.resolution(found)},
        "homogeneous": alone,
        "throughput": {
            kind: {"wanted": wanted, "measured": best / alone[kind]["median"]}
            for kind, wanted in THROUGHPUT.items()
        },
        "share_of_infiniband": alone["infiniband, holmes"]["median"] / holmes["median"],
        "over_bound": holmes["median"] / holmes["bound"],
        "sizes": f"{SIZES}, {MICROBATCHES} micro-batches",
    }


if __name__ == "__main__":
    record.main("placement_virtual", figures, rounds=3)
