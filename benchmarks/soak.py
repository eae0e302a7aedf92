"""Minutes without a fault: does the watching keep quiet, alone and beside a noisy neighbour.

Runs of real ranks on four shaped hosts follow each other until the time is over, with
evaluations and checkpoints between their steps. Each is watched as any run and diagnosed at
its end. The neighbour computes on as many processes as there are cores, for some seconds at
a time, drawn with a seed. An alarm is a restart, an error, or a verdict other than none.
Parts: `--only quiet` and `--only neighbour`; the record keeps the other one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import arms
import record
import shares
from holmes.diagnose.diagnose import diagnose
from holmes.errors import HolmesError
from holmes.job.resolve import ResolvedJob
from holmes.plan.plan import Plan
from holmes.train.planning import default_calibration
from holmes.train.rehearsal import Rehearsal
from holmes.train.show import Progress

MINUTES = 20.0
STEPS = 120
PARTS = ("quiet", "neighbour")
SITE = (
    "{name: flat, clusters: [{name: a, nodes: 4, device: {kind: cpu-core, count: 1}, "
    "nics: [{kind: ethernet, gbit_s: 0.4}]}], rehearsal: {scale: 1}}"
)
SIZES = (
    f"gpt 4 x 128, pp 2 x dp 2 on four hosts, 0.4 Gbit/s; runs of {STEPS} steps, an evaluation "
    "every 20 and a checkpoint every 30"
)
NEIGHBOUR = """
import random, sys, time
draw, end = random.Random(int(sys.argv[1])), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    stop = time.monotonic() + draw.uniform(1, 10)
    while time.monotonic() < stop:
        pass
    time.sleep(draw.uniform(1, 10))
"""
"""Its own deadline ends it, also when nobody is left to do so."""


def job() -> ResolvedJob:
    """What every run trains."""
    return arms.settings(
        f"site={SITE}",
        "model={preset: gpt-1m, layers: 4, hidden: 128, heads: 2, sequence: 64, vocabulary: 512}",
        "data={vocabulary: 512}",
        "batch={global: 8, micro: 1}",
        "parallel={pipeline: 2, data: 2, sharding: optimizer}",
        f"train={{steps: {STEPS}, trace_steps: 0, evaluate_every: 20, evaluate_batches: 1, "
        "checkpoint_every: 30, keep_checkpoints: 2, spike_factor: 20}",
    )


@contextmanager
def busy(seconds: float) -> Iterator[None]:
    """Neighbours that compute in bursts, one a core."""
    command = [sys.executable, "-c", NEIGHBOUR]
    started = [
        subprocess.Popen([*command, str(seed), str(seconds)]) for seed in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def watched(rehearsal: Rehearsal, plan: Plan, folder: Path) -> dict[str, Any]:
    """One run, and what was said of it."""
    started, message = time.monotonic(), ""
    try:
        rehearsal.run(job(), plan, folder, steps=STEPS)
    except HolmesError as error:
        message = error.text()
    verdict = diagnose(folder)
    path = folder / "recovery.json"
    recoveries = json.loads(path.read_text())["recoveries"] if path.exists() else []
    restarts = [one["verdict"] for one in recoveries]
    return {
        "seconds": time.monotonic() - started,
        "class": verdict.cls,
        "evidence": list(verdict.evidence),
        "restarts": restarts,
        "message": message,
        "alarm": verdict.cls != "none" or bool(restarts) or bool(message),
    }


def soak(part: str, minutes: float) -> dict[str, Any]:
    """Runs until the time is over."""
    silent = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        with Rehearsal(job(), base / "logs", silent) as rehearsal:
            rehearsal.calibration = default_calibration(job())
            plan = rehearsal.plan(job())
            end = time.monotonic() + 60 * minutes
            with busy(60 * minutes + 60) if part == "neighbour" else quiet():
                while time.monotonic() < end:
                    runs.append(watched(rehearsal, plan, base / f"run-{len(runs)}"))
                    print(part, runs[-1], flush=True)
    seconds = sum(run["seconds"] for run in runs)
    return {
        "minutes": seconds / 60,
        "steps": STEPS * len(runs),
        "alarms": shares.share(run["alarm"] for run in runs),
        "each": runs,
    }


@contextmanager
def quiet() -> Iterator[None]:
    yield


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of each part")
    parser.add_argument("--only", choices=PARTS, action="append", help="may be repeated")
    given = parser.parse_args()
    parts = dict((record.read("soak") or {}).get("parts", {}))
    for part in given.only or PARTS:
        parts[part] = soak(part, given.minutes)
        alarms = shares.text(parts[part]["alarms"])
        print(f"{part}: {parts[part]['minutes']:.1f} minutes, runs with an alarm: {alarms}")
        worst = max(parts.values(), key=lambda one: one["alarms"]["hits"])
        headline = record.headline(
            "runs with a false alarm", "none: no fault was injected", worst["alarms"]
        )
        record.write("soak", {"headline": headline, "sizes": SIZES, "parts": parts})


if __name__ == "__main__":
    main()
