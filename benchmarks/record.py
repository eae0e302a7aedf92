"""Records: what a benchmark measured, against what, on which machine, at which commit."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

RECORDS = Path(__file__).parent / "records"
DRIFT_LIMIT = 0.10
"""A machine whose speed moved by more than this during a benchmark gives no verdict."""


def machine() -> dict[str, Any]:
    """The machine in words and numbers."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit the benchmark ran at, with a mark when the tree had changes."""
    root = Path(__file__).parent
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True
    )
    return run.stdout.strip() or "unknown"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "q1": values[0], "q3": values[0]}
    q1, _, q3 = quantiles(values, n=4, method="inclusive")
    return {"median": median(values), "q1": q1, "q3": q3}


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of the ratios of runs that stood side by side."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {**spread(ratios), "pairs": len(ratios)}


def spin_seconds(repeats: int = 5) -> float:
    """Seconds of a fixed piece of single-threaded arithmetic: the machine's speed now."""
    best = []
    for _ in range(repeats):
        start = time.perf_counter()
        total = 0
        for i in range(1_000_000):
            total += i * i
        best.append(time.perf_counter() - start)
    return median(best)


def with_drift(body: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a benchmark between two speed probes; says "inconclusive" when they differ."""
    before = spin_seconds()
    figures = body()
    after = spin_seconds()
    drift = abs(after - before) / before
    figures["machine_drift"] = round(drift, 4)
    figures["verdict"] = "inconclusive" if drift > DRIFT_LIMIT else "measured"
    return figures


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write one record; returns its path."""
    RECORDS.mkdir(exist_ok=True)
    record = {
        "name": name,
        **figures,
        "machine": machine(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    path = RECORDS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")
    return path


def read(name: str) -> dict[str, Any] | None:
    """A record, or None when the benchmark has not run."""
    path = RECORDS / f"{name}.json"
    if not path.exists():
        return None
    data: dict[str, Any] = json.loads(path.read_text())
    return data
