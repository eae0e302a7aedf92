"""What tensor ranks that each pass on their own tokens save between nodes: time and bytes.

Two nodes of two devices, one stage each. Off, both tensor ranks send all tokens, as without
the scatter/gather of Megatron-LM (SC21, section 4.1). Virtual devices, real bytes.
"""

from __future__ import annotations

from typing import Any

import arms
import record
from holmes.job.resolve import ResolvedJob

STEPS = 7
TENSOR = 2
MICROBATCHES = 8
GBIT_S = 0.05
MODEL = "{layers: 8, hidden: 256, heads: 4, sequence: 256, vocabulary: 512, tied: false}"
SITE = (
    f"{{name: pair, clusters: [{{name: c, nodes: 2, device: {{kind: cpu-core, count: {TENSOR}}}, "
    f"nics: [{{kind: ethernet, gbit_s: {GBIT_S}}}]}}], rehearsal: {{scale: 1}}}}"
)
ON, OFF = "on", "off"


def job(name: str) -> ResolvedJob:
    """The job of one arm."""
    fixed = f"tensor: {TENSOR}, pipeline: 2, data: 1, schedule: 1f1b, extra_warmup: 1"
    return arms.settings(
        f"site={SITE}",
        f"model={MODEL}",
        f"batch={{global: {MICROBATCHES}, micro: 1}}",
        f"parallel={{{fixed}, scatter_gather: {str(name == ON).lower()}}}",
        "rehearsal={devices: virtual, forward_ms: 2, backward_ms: 4}",
        "train={trace_steps: 0, evaluate_batches: 0}",
    )


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    found = arms.alternate(
        arms.with_again({name: job(name) for name in (OFF, ON)}, ON), rounds=rounds, steps=STEPS
    )
    gain = arms.gain(found, OFF, ON)
    sent = {name: found[name]["bytes_per_step"]["ethernet"] for name in (ON, OFF)}
    return {
        "headline": record.headline("step, scatter/gather off over on", OFF, gain),
        "arms": found,
        "gain": gain,
        "bytes": sent,
        "tensor": TENSOR,
        "resolution": {ON: arms.resolution(found)},
        "sizes": f"tp {TENSOR}, pp 2, {MICROBATCHES} micro-batches, {MODEL.strip('{}')}",
    }


if __name__ == "__main__":
    record.main("scatter_gather", figures, rounds=5)
