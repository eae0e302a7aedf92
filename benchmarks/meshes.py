"""What stages of their own degrees gain on a site of three hosts and two.

The best plan of equal stages that a cluster of three and one of two allow leaves a host idle:
it is the planner's for two hosts on each side; a stage on every host is shown too. The
planner's plan for all five gives each stage the replicas of its cluster. Virtual devices; each
arm in a session of its own, in turns.
"""

from __future__ import annotations

from typing import Any

import arms
import record
from holmes.job.resolve import ResolvedJob

STEPS = 7
SAMPLES = 48
FAST, SLOW = 1.0, 0.5
"""Gbit/s inside and between the clusters."""
MODEL = "{layers: 8, hidden: 128, heads: 4, sequence: 64, vocabulary: 512, tied: false}"
IDLE, DEEP, WHOLE = "equal stages, a host idle", "five stages", "stages of 3 and 2 replicas"


def site(first: int, second: int) -> str:
    """Two clusters of so many hosts."""
    clusters = ", ".join(
        f"{{name: {name}, nodes: {nodes}, device: {{kind: cpu-core}}, "
        f"nics: [{{kind: {kind}, gbit_s: {FAST}}}, {{kind: ethernet, gbit_s: {SLOW}}}]}}"
        for name, nodes, kind in (("ib", first, "infiniband"), ("roce", second, "roce"))
    )
    link = f"{{between: [ib, roce], kind: ethernet, gbit_s: {SLOW}}}"
    name = f"hosts-{first}-{second}"
    return f"{{name: {name}, clusters: [{clusters}], links: [{link}], rehearsal: {{scale: 1}}}}"


def job(where: str, parallel: str = "auto") -> ResolvedJob:
    """The job of one arm: what is not said is planned."""
    return arms.settings(
        f"site={where}",
        f"model={MODEL}",
        f"batch={{global: {SAMPLES}}}",
        f"parallel={parallel}",
        "rehearsal={devices: virtual, forward_ms: 2, backward_ms: 4}",
        "train={trace_steps: 0, evaluate_batches: 0}",
    )


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    jobs = {
        IDLE: job(site(2, 2)),
        DEEP: job(site(3, 2), "{pipeline: 5}"),
        WHOLE: job(site(3, 2)),
    }
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for name, one in arms.with_again(jobs, WHOLE).items():
            arm = arms.alternate({name: one}, rounds=1, steps=STEPS)[name]
            seconds = [*found.get(name, {}).get("seconds", []), *arm["seconds"]]
            found[name] = {**arm, "seconds": seconds, **record.spread(seconds)}
    gain = arms.gain(found, IDLE, WHOLE)
    return {
        "headline": record.headline("step, a host idle over all hosts used", IDLE, gain),
        "arms": found,
        "gain": gain,
        "over_five_stages": arms.gain(found, DEEP, WHOLE),
        "resolution": {WHOLE: arms.resolution(found)},
        "sizes": f"{SAMPLES} samples a step, 2 and 4 ms a block and sample, {MODEL.strip('{}')}",
    }


if __name__ == "__main__":
    record.main("meshes", figures, rounds=5)
