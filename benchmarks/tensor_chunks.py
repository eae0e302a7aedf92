"""What tensor collectives in chunks beside the products save, or cost, inside a node.

One tensor group of two devices: the products of a block and its collectives take turns with
one chunk. Real computation, each rank held to its share of a core, and the memory of the
machine as the link; the overlap is also read off the trace, as the part of the collectives
beside which something was computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import arms
import record
from holmes.events.join import COMPUTE_LANE
from holmes.events.span import Span
from holmes.job.resolve import ResolvedJob
from holmes.plan.plan import Plan

STEPS = 7
MICROBATCHES = 2
MODEL = "{layers: 4, hidden: 256, heads: 4, sequence: 256, vocabulary: 2048, tied: false}"
SITE = (
    "{name: one, clusters: [{name: c, nodes: 1, device: {kind: cpu-core, count: 2}, "
    "nics: [{kind: ethernet, gbit_s: 1}]}], rehearsal: {scale: 1}}"
)
CHUNKS = (1, 2, 4)


def job(chunks: int) -> ResolvedJob:
    """The job of one arm."""
    return arms.settings(
        f"site={SITE}",
        f"model={MODEL}",
        f"batch={{global: {MICROBATCHES}, micro: 1}}",
        f"parallel={{tensor: 2, pipeline: 1, data: 1, tensor_chunks: {chunks}}}",
        "train={trace_steps: 2, evaluate_batches: 0}",
    )


def name_of(chunks: int) -> str:
    """What an arm is called."""
    return f"{chunks} chunk{'s' * (chunks > 1)}"


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    jobs = {name_of(chunks): job(chunks) for chunks in CHUNKS}
    found = arms.alternate(
        arms.with_again(jobs, name_of(1)), rounds=rounds, steps=STEPS, inspect=_beside
    )
    gains = {name: arms.gain(found, name_of(1), name) for name in jobs}
    return {
        "headline": record.headline(
            f"step, {name_of(1)} over {name_of(2)}", name_of(1), gains[name_of(2)]
        ),
        "arms": found,
        "gains": gains,
        "resolution": {name_of(1): arms.resolution(found)},
        "sizes": f"tp 2 in one node, {MICROBATCHES} micro-batches, {MODEL.strip('{}')}",
    }


def _beside(run: Path, plan: Plan) -> dict[str, Any]:
    """The part of the time of chunks on the wire in which their rank computed."""
    inner = [span for step in arms.measured_steps(run) for span in step.inner]
    moved = [span for span in inner if span.lane != COMPUTE_LANE]
    computed = [span for span in inner if span.lane == COMPUTE_LANE]
    total = sum(span.stop - span.start for span in moved)
    beside = sum(_common(a, b) for a in moved for b in computed)
    return {"beside": beside / total if total else 0.0}


def _common(a: Span, b: Span) -> int:
    if (a.rank, a.step, a.id) != (b.rank, b.step, b.id):
        return 0
    return max(0, min(a.stop, b.stop) - max(a.start, b.start))


if __name__ == "__main__":
    record.main("tensor_chunks", figures, rounds=5)
