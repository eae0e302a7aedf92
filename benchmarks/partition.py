"""What an uneven partition gains when one cluster's devices run at half speed: real compute.

The model is deep and its vocabulary small, so that the head weighs no more than a block. The
links are fast and everything but the cut is the same in all arms. The slow devices are ranks
that compute with half the share of a core.
"""

from __future__ import annotations

from typing import Any

import arms
import record
from holmes.job.resolve import ResolvedJob
from setting import hybrid_site

STEPS = 9
MICROBATCHES = 8
GBIT_S = 2.0
SLOW = 0.5
MODEL = "{layers: 16, hidden: 192, heads: 6, sequence: 64, vocabulary: 512, tied: false}"
RULES = ("even", "proportional", "exact")
SITE = hybrid_site({"ethernet": GBIT_S}, ("ethernet", "ethernet"), (1.0, SLOW))


def job(partition: str) -> ResolvedJob:
    """The job of one arm; only the rule of the cut differs."""
    fixed = "order: launch, transport: per-group, overlap: true, extra_warmup: 0"
    return arms.settings(
        f"site={SITE}",
        f"model={MODEL}",
        "data={source: shakespeare, vocabulary: 512}",
        f"batch={{global: {2 * MICROBATCHES}, micro: 1}}",
        f"parallel={{pipeline: 2, data: 2, schedule: 1f1b, {fixed}, partition: {partition}}}",
        f"train={{steps: {STEPS}, trace_steps: 0, evaluate_batches: 0}}",
    )


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    jobs = {rule: job(rule) for rule in RULES}
    found = arms.alternate(arms.with_again(jobs, "exact"), rounds=rounds, steps=STEPS)
    gains = {rule: arms.gain(found, "even", rule) for rule in RULES}
    return {
        "headline": record.headline("step, even over exact", "even", gains["exact"]),
        "arms": found,
        "gains": gains,
        "resolution": {"exact": arms.resolution(found)},
        "slow_speed": SLOW,
        "sizes": f"pp 2, dp 2, {MICROBATCHES} micro-batches, {MODEL.strip('{}')}",
    }


if __name__ == "__main__":
    record.main("partition", figures, rounds=4)
