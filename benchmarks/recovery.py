"""kill -9 at every phase of a run, of three victims: does the run end as if nothing had been?

Four ranks of this machine, real devices. After each trial parameters, optimiser and random
state are compared bit by bit with the unfaulted run, the ledger is read, and the parts of the
recovery are noted. The baseline is plain torchrun with restarts (the same job, without the
supervisor of Holmes). Runs in parts: `--phases forward,write --victims 0,3`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import record
from holmes.errors import HolmesError
from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.lab.faults import OUTER_PHASES, PHASES
from holmes.runtime.checkpoint.folders import latest_committed
from holmes.runtime.checkpoint.read import read_checkpoint
from holmes.train.ledger import balance
from holmes.train.planning import default_calibration
from holmes.train.rehearsal import Rehearsal
from holmes.train.show import Progress

STEPS = 10
KILL_STEP = 5
VICTIMS = (0, 2, 3)
FIRST_ONLY = frozenset({"marker", "latest"})
"""Acts of rank 0: other ranks never come there."""
SITE = (
    "{name: flat, clusters: [{name: a, nodes: 4, device: {kind: cpu-core, count: 1}, "
    "nics: [{kind: ethernet, gbit_s: 1.0}]}], rehearsal: {scale: 1}}"
)
WORDS = (
    f"site={SITE}",
    "model={preset: gpt-1m, layers: 4, hidden: 64, heads: 2, sequence: 32, vocabulary: 512}",
    "data={vocabulary: 512}",
    "batch={global: 8, micro: 1}",
    "parallel={pipeline: 2, data: 2, sharding: optimizer}",
    f"train={{steps: {STEPS}, evaluate_batches: 0, trace_steps: 0, checkpoint_every: 3, "
    "keep_checkpoints: 9}",
)
SIZES = "gpt 4 x 64, pp 2 x dp 2 on 4 ranks of one machine, 10 steps, a checkpoint every 3"


def job() -> ResolvedJob:
    """What every trial trains."""
    return resolve_job(None, list(WORDS), {})


def fault_of(phase: str, victim: int) -> str:
    """The kill as on the command line; ``first`` is the forward of the first step."""
    if phase == "first":
        return f"kill:rank={victim}@step=0,phase=forward"
    return f"kill:rank={victim}@step={KILL_STEP},phase={phase}"


def trial(rehearsal: Rehearsal, clean: Path, folder: Path, fault: str) -> dict[str, Any]:
    """One run with one kill."""
    resolved = job()
    message = ""
    try:
        plan = rehearsal.plan(resolved)
        rehearsal.run(resolved, plan, folder, steps=STEPS, inject=[fault])
    except HolmesError as error:
        message = error.what
    happened = json.loads((folder / "injected.json").read_text())["faults"][0]["at_ns"] is not None
    path = folder / "recovery.json"
    recoveries = json.loads(path.read_text())["recoveries"] if path.exists() else []
    counted = balance(folder)
    return {
        "fault": fault,
        "happened": happened,
        "resumed": happened and not message and len(recoveries) == 1,
        "bit_equal": not message and equal(clean, folder),
        "named": [one["verdict"]["rank"] for one in recoveries],
        "samples_lost": None if counted is None else counted.lost,
        "samples_repeated": None if counted is None else counted.repeated,
        "seconds": recoveries[0]["seconds"] if recoveries else {},
        "total_seconds": recoveries[0]["total_seconds"] if recoveries else None,
        "message": message,
    }


def equal(clean: Path, folder: Path) -> bool:
    """Whether both runs ended with the same state."""
    ends = [latest_committed(run) for run in (clean, folder)]
    if any(end is None or end.name != f"step-{STEPS}" for end in ends):
        return False
    a, b = (read_checkpoint(end).tensors for end in ends if end is not None)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run(phases: list[str], victims: list[int]) -> list[dict[str, Any]]:
    """All trials in one session."""
    silent = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        with Rehearsal(job(), base / "logs", silent, rehearse=False) as rehearsal:
            rehearsal.calibration = default_calibration(job())
            rehearsal.run(job(), rehearsal.plan(job()), base / "clean", steps=STEPS)
            for phase in phases:
                for victim in victims if phase not in FIRST_ONLY else victims[:1]:
                    folder = base / f"{phase}-{victim}"
                    found.append(trial(rehearsal, base / "clean", folder, fault_of(phase, victim)))
                    print(found[-1], flush=True)
    return found


def torchrun(trials: int) -> list[dict[str, Any]]:
    """The same kill under plain torchrun, which restarts all ranks: seconds to the first new
    step, after the kernel's end of the victim."""
    found = []
    for number in range(trials):
        with tempfile.TemporaryDirectory() as temporary:
            words = [*WORDS, f"output={temporary}", "name=t"]
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node=4", "--max-restarts=2", "-m", "holmes", "train", *words]
            run = Path(temporary) / "t"
            with (Path(temporary) / "log").open("w") as log:
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
                try:
                    found.append(_kill_one(process, run, number))
                finally:
                    process.terminate()
                    process.wait()
            print(found[-1], flush=True)
    return found


def _kill_one(process: subprocess.Popen[bytes], run: Path, number: int) -> dict[str, Any]:
    limit = time.monotonic() + 150
    killed = None
    while time.monotonic() < limit and process.poll() is None:
        board = run / "monitor" / "rank-2.board"
        if killed is None and _lines(run) > 4 and board.exists():
            from holmes.runtime.monitor.board import read_board

            os.kill(read_board(board).pid, 9)
            killed, before = time.monotonic(), _lines(run)
        if killed is not None and _lines(run) < before:
            before = _lines(run)  # the run went back to its checkpoint
        if killed is not None and time.monotonic() - killed > 1 and _lines(run) > before:
            return {"trial": number, "seconds": time.monotonic() - killed}
        time.sleep(0.01)
    return {"trial": number, "seconds": None}


def _lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def summary(trials: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> dict[str, Any]:
    """The record's body."""
    whole = [t for t in trials if t["resumed"] and t["bit_equal"] and t["samples_lost"] == 0]
    totals = [t["total_seconds"] for t in trials if t["total_seconds"] is not None]
    others = [t["seconds"] for t in baseline if t["seconds"] is not None]
    parts = sorted({part for t in trials for part in t["seconds"]})
    return {
        "headline": record.headline(
            "seconds from the last sign of a killed rank to the first new step",
            "plain torchrun with restarts: from the kill to the first new step",
            {**record.spread(totals), "pairs": len(totals)},
        ),
        "sizes": SIZES,
        "resumed_bit_equal_no_sample_lost": len(whole),
        "trials": len(trials),
        "parts": {
            part: record.spread([t["seconds"][part] for t in trials if part in t["seconds"]])
            for part in parts
        },
        "torchrun": record.spread(others) if others else None,
        "each": trials,
        "each_torchrun": baseline,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    phases = ",".join(("first", *PHASES, *OUTER_PHASES))
    parser.add_argument("--phases", default=phases)
    parser.add_argument("--victims", default=",".join(map(str, VICTIMS)))
    parser.add_argument("--torchrun", type=int, default=3, help="trials of the baseline")
    given = parser.parse_args()
    trials = run(given.phases.split(","), [int(v) for v in given.victims.split(",")])
    body = summary(trials, torchrun(given.torchrun))
    for part, values in body["parts"].items():
        print(f"{part:12} {values['median']:.3f} s")
    print(
        f"resumed, bit-equal, no sample lost: {body['resumed_bit_equal_no_sample_lost']} "
        f"of {body['trials']}"
    )
    record.write("recovery", body)


if __name__ == "__main__":
    main()
