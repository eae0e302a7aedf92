"""Records: what a benchmark measured, against what, on which machine, at which commit."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

RECORDS = Path(__file__).parent / "records"
CODE = ("src", "examples", "benchmarks/*.py")
LIMIT = 0.10
"""What moved by more than this during a benchmark gives no verdict."""
LOOPBACK_BYTES = 64 << 20
CHUNK_BYTES = 64 << 10
PAUSE_SECONDS = 0.1


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
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit the benchmark ran at, with a mark when the code that runs had changes."""
    name = _git("describe", "--always").stdout.strip()
    changed = _git("diff", "--quiet", "HEAD", "--", *CODE).returncode
    return f"{name}-dirty" if changed else name or "unknown"


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)


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


def headline(figure: str, baseline: str, value: dict[str, Any]) -> dict[str, Any]:
    """What a record is about: the figure, what it is compared with, median, quartiles, pairs."""
    return {"figure": figure, "baseline": baseline, **value}


def speeds(repeats: int = 15) -> dict[str, float]:
    """Seconds of three fixed pieces of work like a benchmark's own: the machine's speed now.

    Medians over some seconds, with pauses, so that a short burst of something else is none.
    """
    probes = {"arithmetic": _arithmetic, "matmul": _matmul, "loopback": _loopback}
    seconds: dict[str, list[float]] = {name: [] for name in probes}
    for _ in range(repeats):
        for name, work in probes.items():
            seconds[name].append(_timed(work))
        time.sleep(PAUSE_SECONDS)
    return {name: median(values) for name, values in seconds.items()}


def drift_of(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """By how much each probe moved, as a fraction."""
    return {name: round(after[name] / before[name] - 1, 4) for name in before}


def with_drift(body: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a benchmark between two speed probes, and judge it."""
    before = speeds()
    figures = body()
    drift = drift_of(before, speeds())
    return {**figures, "drift": drift, "verdict": verdict(figures, drift)}


def verdict(figures: dict[str, Any], drift: dict[str, float]) -> str:
    """Whether the machine was steady enough: "measured" or "inconclusive".

    Ratios of runs side by side are judged by the arms that ran against themselves
    (``resolution``, by case): a slow drift cancels in them. What is compared with a value
    from before the run is judged by the drift of the speed probes.
    """
    moved = list(drift.values())
    if "resolution" in figures:
        ratios = figures["resolution"].values()
        moved = [ratio[quartile] - 1 for ratio in ratios for quartile in ("q1", "q3")]
    return "inconclusive" if max(abs(value) for value in moved) > LIMIT else "measured"


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _arithmetic() -> None:
    total = 0
    for i in range(1_000_000):
        total += i * i


def _matmul() -> None:
    """Products of the sizes that the demo's blocks have."""
    left, right = torch.ones(64, 256), torch.ones(256, 1024)
    for _ in range(300):
        left @ right


def _loopback() -> None:
    """64 MiB over TCP on this machine, from and to one thread, so that no scheduling is in it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as out,
        server.accept()[0] as into,
    ):
        chunk, buffer = bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES)
        for _ in range(LOOPBACK_BYTES // CHUNK_BYTES):
            out.sendall(chunk)
            left = CHUNK_BYTES
            while left:
                left -= into.recv_into(buffer, left)


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


def main(name: str, figures: Callable[[int], dict[str, Any]], *, rounds: int) -> None:
    """The command line of a benchmark: run it between two speed probes and write its record."""
    parser = argparse.ArgumentParser(description=f"Writes benchmarks/records/{name}.json.")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}")
    given = parser.parse_args().rounds
    write(name, with_drift(lambda: figures(given)))


def read(name: str) -> dict[str, Any] | None:
    """A record, or None when the benchmark has not run."""
    path = RECORDS / f"{name}.json"
    if not path.exists():
        return None
    data: dict[str, Any] = json.loads(path.read_text())
    return data
