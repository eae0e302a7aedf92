"""kill -9 and SIGSTOP at every phase of a run: does the run end as if nothing had been?

Each of three victims is killed, one is stopped. Four ranks of this machine, real devices. After
each trial parameters, optimiser and random state are compared bit by bit with the unfaulted run,
the ledger is read, and the parts of the recovery are noted. Cold: the process that has torch
imported is killed, and all ranks with it. The baseline is plain torchrun with restarts (the same
job, without the supervisor of Holmes).
Runs in parts, and the record keeps what is not run again: `--phases forward,write`,
`--victims 0,3`, `--freezes none`, `--phases none --torchrun 0`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import record
import shares
from holmes.errors import HolmesError
from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.lab.faults import OUTER_PHASES, PHASES
from holmes.runtime.checkpoint.folders import latest_committed
from holmes.runtime.checkpoint.read import read_checkpoint
from holmes.runtime.monitor.board import read_board
from holmes.train.ledger import balance
from holmes.train.planning import default_calibration
from holmes.train.rehearsal import Rehearsal
from holmes.train.show import Progress

STEPS = 10
KILL_STEP = 5
VICTIMS = (0, 2, 3)
FROZEN = 2
NONE = "none"
COLD = "cold"
ALL_PHASES = ("first", *PHASES, *OUTER_PHASES)
LIMITS = {"warm": 15.0, "cold": 60.0}
TORCHRUN_SECONDS = 150.0
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


def fault_of(kind: str, phase: str, victim: int) -> str:
    """The fault as on the command line; ``first`` is the forward of the first step."""
    if phase == "first":
        return f"{kind}:rank={victim}@step=0,phase=forward"
    return f"{kind}:rank={victim}@step={KILL_STEP},phase={phase}"


def faults_of(phases: Sequence[str], victims: Sequence[int], freezes: Sequence[str]) -> list[str]:
    """Every kill and every freeze of a run of this program."""
    killed = [fault_of("kill", phase, victim) for phase in phases for victim in victims]
    return [*killed, *[fault_of("freeze", phase, FROZEN) for phase in freezes]]


def trial(rehearsal: Rehearsal, clean: Path, folder: Path, fault: str) -> dict[str, Any]:
    """One run with one fault, which may be :data:`COLD`."""
    resolved = job()
    message = ""
    inject = [f"slow:rank=1,share=0.02@step={KILL_STEP - 2}"] if fault == COLD else [fault]
    try:
        plan = rehearsal.plan(resolved)
        with starter_killed(rehearsal, folder) if fault == COLD else untouched():
            rehearsal.run(resolved, plan, folder, steps=STEPS, inject=inject)
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
        "cold": bool(recoveries and recoveries[0]["cold"]),
        "seconds": recoveries[0]["seconds"] if recoveries else {},
        "total_seconds": recoveries[0]["total_seconds"] if recoveries else None,
        "message": message,
    }


@contextmanager
def starter_killed(rehearsal: Rehearsal, run: Path) -> Iterator[None]:
    """Kill the process that starts ranks once a first checkpoint is there."""
    over = threading.Event()
    (starter,) = (pid for pid in _children(os.getpid()) if "holmes.launch.zygote" in _command(pid))

    def kill() -> None:
        while not (run / "checkpoints" / "step-3" / "COMMITTED").exists():
            if over.wait(0.01):
                return
        os.kill(starter, 9)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def untouched() -> Iterator[None]:
    yield


def _children(pid: int) -> list[int]:
    paths = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in paths for word in path.read_text().split()]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def equal(clean: Path, folder: Path) -> bool:
    """Whether both runs ended with the same state."""
    ends = [latest_committed(run) for run in (clean, folder)]
    if any(end is None or end.name != f"step-{STEPS}" for end in ends):
        return False
    a, b = (read_checkpoint(end).tensors for end in ends if end is not None)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run(faults: Sequence[str], cold: int) -> list[dict[str, Any]]:
    """All trials in one session."""
    silent = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        with Rehearsal(job(), base / "logs", silent, rehearse=False) as rehearsal:
            rehearsal.calibration = default_calibration(job())
            rehearsal.run(job(), rehearsal.plan(job()), base / "clean", steps=STEPS)
            for number, fault in enumerate([*faults, *[COLD] * cold]):
                found.append(trial(rehearsal, base / "clean", base / f"run-{number}", fault))
                print(found[-1], flush=True)
    return found


def torchrun(trials: int) -> list[dict[str, Any]]:
    """The same kill under plain torchrun, which restarts all ranks: seconds to the first new
    step, after the kernel's end of the victim."""
    found = []
    for number in range(trials):
        with tempfile.TemporaryDirectory() as temporary:
            words = [*WORDS, "train.steps=1000", f"output={temporary}", "name=t"]
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node=4", "--max-restarts=2", "-m", "holmes", "train", *words]
            with (Path(temporary) / "log").open("w") as log:
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
                try:
                    seconds = _kill_one(process, Path(temporary) / "t")
                finally:
                    process.terminate()
                    process.wait()
            found.append({"trial": number, "seconds": seconds})
            print(found[-1], flush=True)
    return found


def _kill_one(process: subprocess.Popen[bytes], run: Path) -> float | None:
    """Kill rank 2 after some steps; seconds until a step of its successors is complete."""
    limit, killed, victim = time.monotonic() + TORCHRUN_SECONDS, 0.0, 0
    while time.monotonic() < limit and process.poll() is None:
        board = run / "monitor" / "rank-0.board"
        now = read_board(board) if board.exists() else None
        if not killed and now is not None and now.step >= KILL_STEP:
            victim = read_board(run / "monitor" / "rank-2.board").pid
            before, killed = now.pid, time.monotonic()
            os.kill(victim, 9)
        elif killed and now is not None and now.pid != before and now.operation:
            return time.monotonic() - killed
        time.sleep(0.01)
    return None


def whole(one: Mapping[str, Any]) -> bool:
    """Whether a run went on as if nothing had been."""
    kept = one["samples_lost"] == 0 and one["samples_repeated"] == 0
    return bool(one["resumed"] and one["bit_equal"] and kept)


def named(one: Mapping[str, Any]) -> bool:
    """Whether the verdict was about the victim, and there was one restart."""
    return bool(one["named"] == [int(one["fault"].partition("rank=")[2].partition("@")[0])])


def frozen_share(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How stopped ranks ended, and the seconds until one was noticed."""
    if not trials:
        return None
    noticed = [t["seconds"]["detect"] for t in trials if "detect" in t["seconds"]]
    return {
        "whole": shares.share(whole(t) for t in trials),
        "victim_named": shares.share(named(t) for t in trials),
        "detect": {**record.spread(noticed), "worst": max(noticed)} if noticed else None,
    }


def temperature(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds of warm, or of cold restarts: in all and in parts; in all where a step was left."""
    totals = [t["total_seconds"] for t in trials if "first_step" in t["seconds"]]
    parts = dict.fromkeys(part for t in trials for part in t["seconds"])
    return {
        "total": {**record.spread(totals), "worst": max(totals), "trials": len(totals)},
        "parts": {
            part: record.spread([t["seconds"][part] for t in trials if part in t["seconds"]])
            for part in parts
        },
    }


def summary(trials: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> dict[str, Any]:
    """The record's body."""
    frozen = [t for t in trials if t["fault"].startswith("freeze")]
    ended = [t for t in trials if t not in frozen]
    killed = [t for t in ended if t["fault"] != COLD]
    by_heat = {heat: [t for t in ended if t["cold"] == (heat == "cold")] for heat in LIMITS}
    timed = {h: t for h, t in by_heat.items() if any("first_step" in one["seconds"] for one in t)}
    others = [t["seconds"] for t in baseline if t["seconds"] is not None]
    totals = [t["total_seconds"] for t in killed if "first_step" in t["seconds"]]
    return {
        "headline": record.headline(
            "seconds from the last sign of a killed rank to the first new step",
            "plain torchrun with restarts: from the kill to the first new step",
            {**record.spread(totals), "pairs": len(totals)},
        ),
        "sizes": SIZES,
        "whole": shares.share(whole(t) for t in ended),
        "victim_named": shares.share(named(t) for t in killed),
        "frozen": frozen_share(frozen),
        "limits": LIMITS,
        **{heat: temperature(found) for heat, found in timed.items()},
        "torchrun": {**record.spread(others), "worst": max(others), "trials": len(others)}
        if others
        else None,
        "each": trials,
        "each_torchrun": baseline,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phases", default=",".join(ALL_PHASES), help=f"or {NONE}")
    parser.add_argument("--victims", default=",".join(map(str, VICTIMS)))
    parser.add_argument("--freezes", default=",".join(ALL_PHASES), help=f"phases, or {NONE}")
    parser.add_argument("--cold", type=int, default=3, help="trials of a cold start")
    parser.add_argument("--torchrun", type=int, default=3, help="trials of the baseline")
    given = parser.parse_args()
    phases, freezes = (
        [] if word == NONE else word.split(",") for word in (given.phases, given.freezes)
    )
    victims = [int(v) for v in given.victims.split(",")]
    trials = run(faults_of(phases, victims, freezes), given.cold)
    before = record.read("recovery") or {"each": [], "each_torchrun": []}
    again = {t["fault"] for t in trials}
    kept = [t for t in before["each"] if t["fault"] not in again]
    body = summary([*kept, *trials], torchrun(given.torchrun) or before["each_torchrun"])
    for heat in LIMITS:
        for part, values in body.get(heat, {"parts": {}})["parts"].items():
            print(f"{heat} {part:12} {values['median']:.3f} s")
    print(f"resumed, bit-equal, no sample lost or repeated: {shares.text(body['whole'])}")
    record.write("recovery", body)


if __name__ == "__main__":
    main()
