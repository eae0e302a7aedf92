"""Levels of sharding on a site with three link rates: three levels against one and two.

Two clusters of two hosts with two devices each, eight replicas: memory between the devices of
a host, a fast card between the hosts of a cluster, a slow link between the clusters. One level
(``parameters``) gathers and reduces over all eight, so that every micro-batch crosses the slow
link; two (``hybrid``) stay inside a host or a cluster and cross it once a step; three gather in
a host, reduce in a cluster and cross it once a step. Virtual devices: bytes on the wire are
real, packing them into integers takes no time. Where all cards and links are fast, as they
would be in one cluster, there is little to gain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import arms
import record
from holmes.cost.resident import resident_bytes
from holmes.job.resolve import ResolvedJob
from holmes.plan.plan import Plan

STEPS = 5
MICROBATCHES = 2
REPLICAS = 8
RATES = {"infiniband": 1.0, "roce": 1.0, "ethernet": 0.2}
"""Gbit/s; Ethernet also links the clusters."""
FAST_GBIT_S = 2.0
"""Of everything, in the case where all links are fast."""
BACKWARD_MS, LONG_BACKWARD_MS = 16, 60
"""Of a block and micro-batch; forward takes half of it."""
MODEL = "layers: 4, heads: 4, sequence: 64, vocabulary: 256, tied: false"
HIDDEN, FEW_HIDDEN = 128, 64
"""With fast links fewer, so that carrying the bytes takes the processors little time."""
FLAT, THREE = "one level", "three levels"
LEVELS = {
    FLAT: "sharding: parameters",
    f"{FLAT}, int4": "sharding: parameters, quantize: int4",
    "two levels, of a host": "sharding: hybrid, shard_groups: [2]",
    "two levels, of a cluster": "sharding: hybrid, shard_groups: [4]",
    THREE: "sharding: three-level",
    f"{THREE}, int8": "sharding: three-level, quantize: int8",
    f"{THREE}, int4": "sharding: three-level, quantize: int4",
}
SLOW_CASE, FAST_CASE = "slow between clusters", "all links fast"


def site(rates: dict[str, float]) -> str:
    """Two clusters of two hosts with two devices."""
    clusters = ", ".join(
        f"{{name: {kind}, nodes: 2, device: {{kind: cpu-core, count: 2}}, nics: "
        f"[{{kind: {kind}, gbit_s: {rates[kind]}}}, "
        f"{{kind: ethernet, gbit_s: {rates['ethernet']}}}]}}"
        for kind in ("infiniband", "roce")
    )
    link = f"{{between: [infiniband, roce], kind: ethernet, gbit_s: {rates['ethernet']}}}"
    return f"{{name: levels, clusters: [{clusters}], links: [{link}], rehearsal: {{scale: 1}}}}"


def job(rates: dict[str, float], backward_ms: int, hidden: int, level: str) -> ResolvedJob:
    """The job of one arm."""
    times = f"forward_ms: {backward_ms / 2}, backward_ms: {backward_ms}"
    return arms.settings(
        f"site={site(rates)}",
        f"model={{{MODEL}, hidden: {hidden}}}",
        f"batch={{global: {REPLICAS * MICROBATCHES}, micro: 1}}",
        f"parallel={{tensor: 1, pipeline: 1, data: {REPLICAS}, overlap: true, {level}}}",
        f"rehearsal={{devices: virtual, {times}}}",
        "train={trace_steps: 0, evaluate_batches: 0}",
    )


def cases() -> dict[str, dict[str, ResolvedJob]]:
    """Arms by case."""
    fast = dict.fromkeys(RATES, FAST_GBIT_S)
    return {
        SLOW_CASE: {name: job(RATES, BACKWARD_MS, HIDDEN, level) for name, level in LEVELS.items()},
        FAST_CASE: {
            name: job(fast, LONG_BACKWARD_MS, FEW_HIDDEN, LEVELS[name]) for name in (FLAT, THREE)
        },
    }


def inspect(run: Path, plan: Plan) -> dict[str, Any]:
    """Bytes of weights, gradients and optimiser states that a rank keeps between steps."""
    return {"kept": resident_bytes(plan, 0)}


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    found: dict[str, Any] = {}
    for case, jobs in cases().items():
        print(case)
        measured = arms.alternate(
            arms.with_again(jobs, THREE), rounds=rounds, steps=STEPS, inspect=inspect
        )
        gains = {name: arms.gain(measured, name, THREE) for name in jobs if name != THREE}
        found[case] = {"arms": measured, "gains": gains}
    resolution = {case: arms.resolution(one["arms"]) for case, one in found.items()}
    gain = found[SLOW_CASE]["gains"][FLAT]
    return {
        "headline": record.headline("step, one level of sharding over three", FLAT, gain),
        "cases": found,
        "resolution": resolution,
        "rates_gbit_s": RATES,
        "fast_gbit_s": FAST_GBIT_S,
        "sizes": f"dp {REPLICAS}, {MICROBATCHES} micro-batches, {MODEL}, hidden: {HIDDEN} and "
        f"{FEW_HIDDEN}; backward {BACKWARD_MS} and {LONG_BACKWARD_MS} ms a block",
    }


if __name__ == "__main__":
    record.main("three_level", figures, rounds=4)
