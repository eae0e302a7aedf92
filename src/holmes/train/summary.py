"""The rehearse object: what a run measured beside what its plan predicted."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from holmes.errors import WriteError
from holmes.events.jsonl import read_objects
from holmes.events.metrics import StepMetrics, read_metrics
from holmes.plan.plan import Plan
from holmes.train.ledger import balance
from holmes.train.recorder import WARM_UP_STEPS


def summarise(run: Path, plan: Plan, *, devices: str, links: str) -> dict[str, Any]:
    """Build the object from the run's metrics; the first steps warm up and are dropped.

    Keys: run, placement, steps, step_seconds, predicted_step_seconds,
    tokens_per_second, loss, bytes_per_step, devices, links, ledger (samples lost or repeated).

    Raises:
        DataError: when the metrics cannot be read.
    """
    metrics = read_metrics(run / "metrics.jsonl")
    kept = metrics[WARM_UP_STEPS:] or metrics
    seconds = _spread([step.step_seconds for step in kept])
    tokens = plan.batch.global_ * plan.workload.sequence
    counted = balance(run)
    return {
        "run": str(run),
        "placement": plan.placement_name,
        "steps": len(metrics),
        "step_seconds": seconds,
        "predicted_step_seconds": plan.predicted.step_seconds,
        "tokens_per_second": tokens / seconds["median"],
        "loss": _loss(run, metrics),
        "bytes_per_step": _bytes(kept, plan),
        "devices": devices,
        "links": links,
        "ledger": None if counted is None else counted.to_dict(),
        "machine": machine(),
    }


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write one JSON object.

    Raises:
        WriteError: when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise WriteError(f"cannot write {path.name}: {error.strerror}", where=str(path)) from None


def _spread(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return dict.fromkeys(("median", "q1", "q3"), values[0])
    q1, _, q3 = quantiles(values, n=4, method="inclusive")
    return {"median": median(values), "q1": q1, "q3": q3}


def _loss(run: Path, metrics: list[StepMetrics]) -> dict[str, float | None] | None:
    if metrics[-1].loss is None:
        return None
    path = run / "evaluations.jsonl"
    held_out = [item["loss"] for _, item in read_objects(path)] if path.exists() else [None]
    return {
        "first": metrics[0].loss,
        "last": metrics[-1].loss,
        "validation": held_out[-1],
    }


def _bytes(metrics: list[StepMetrics], plan: Plan) -> dict[str, dict[str, float | None]]:
    """Median bytes sent per step by NIC kind; measured is None where nothing counts them.

    A kind that the plan does not use and that a typical step does not either is left out:
    the kernel sends a frame of its own on any card now and then.
    """
    predicted = plan.predicted.bytes_per_step
    kinds = {*predicted, *(kind for step in metrics for kind in step.bytes)}
    sent = {kind: median(step.bytes.get(kind, 0) for step in metrics) for kind in sorted(kinds)}
    counted = any(step.bytes for step in metrics)
    return {
        kind: {"measured": bytes_ if counted else None, "predicted": predicted.get(kind, 0)}
        for kind, bytes_ in sent.items()
        if bytes_ or kind in predicted
    }


def machine() -> dict[str, Any]:
    """The machine a run was measured on."""
    name = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "kernel": ".".join(platform.release().split(".")[:2]),
    }
