"""Injected faults against what the diagnosis says: class, victim, seconds, false alarms.

Four hosts on one shaped Ethernet, four replicas, virtual devices; victims, steps and phases
are drawn with a seed. The truth is what the injector wrote; the diagnosis cannot see it.
Runs in parts: `--only kill,cut` replaces the trials of these kinds in the record, `--add` adds
to them, `--up-to 12` adds what is missing to so many.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import arms
import fault_tables
import record
import shares
from holmes.diagnose.diagnose import diagnose
from holmes.errors import HolmesError
from holmes.events.span import Span
from holmes.job.resolve import ResolvedJob
from holmes.lab.faults import PHASES
from holmes.runtime.monitor.board import Board
from holmes.runtime.monitor.flight import FlightRecorder, FlightStep, read_flight
from holmes.runtime.monitor.wires import REST_SECONDS, Connections
from holmes.train.rehearsal import Rehearsal
from holmes.train.show import Progress

HOSTS = 4
STEPS = 24
SITE = (
    "{name: flat, clusters: [{name: a, nodes: 4, device: {kind: cpu-core, count: 1}, "
    "nics: [{kind: ethernet, gbit_s: 0.4}]}], rehearsal: {scale: 1}}"
)
SIZES = "gpt-1m, dp 4, 4 and 8 ms a block, 24 steps, 0.4 Gbit/s; faults last half of a run"
WANTED = {
    "none": "none",
    "neighbour": "none",
    "kill": "dead",
    "freeze": "frozen",
    "slow": "slow-compute",
    "rate": "slow-link",
    "loss": "lossy-link",
    "latency": "slow-link",
    "jitter": "slow-link",
    "cut": "cut-link",
}
HOW_MUCH = {"rate": ",share=0.5", "loss": ",percent=1", "latency": ",ms=10", "jitter": ",ms=10"}
CONNECTIONS = 12
FAILING = ("kill", "freeze", "cut")
WELL = ("none", "neighbour")


def job() -> ResolvedJob:
    """What every trial trains."""
    return arms.settings(
        f"site={SITE}",
        "model={preset: gpt-1m}",
        "batch={global: 16, micro: 2}",
        "parallel={pipeline: 1, data: 4}",
        f"train={{steps: {STEPS}, trace_steps: 0, evaluate_batches: 0}}",
        "rehearsal={devices: virtual, forward_ms: 4, backward_ms: 8}",
    )


def fault_of(kind: str, draw: random.Random) -> tuple[str | None, int | None]:
    """The fault to inject and its victim (a rank, which is also the number of its host)."""
    if kind in WELL:
        return None, None
    victim = draw.randrange(HOSTS)
    step = draw.randrange(4, 10) if kind in FAILING else STEPS // 2
    if kind in ("kill", "freeze"):
        return f"{kind}:rank={victim}@step={step},phase={draw.choice(PHASES)}", victim
    if kind == "slow":
        return f"slow:rank={victim},share=0.5@step={step}", victim
    return f"{kind}:host=a-{victim},nic=ethernet{HOW_MUCH.get(kind, '')}@step={step}", victim


def trial(rehearsal: Rehearsal, kind: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run with one fault, or none."""
    fault, victim = fault_of(kind, random.Random(f"{kind}-{seed}"))
    resolved = job()
    plan = rehearsal.plan(resolved)
    ended, message = False, ""
    with busy() if kind == "neighbour" else quiet():
        try:
            inject = [fault] if fault else []
            rehearsal.run(resolved, plan, folder, steps=STEPS, inject=inject)
        except HolmesError as error:
            ended, message = True, error.what
    verdict = diagnose(folder)
    named = verdict.rank if verdict.rank is not None else _number(verdict.host)
    seconds = _seconds(folder) if ended else None
    return {
        "kind": kind,
        "seed": seed,
        "fault": fault,
        "relay": _relay(folder),
        "class": verdict.cls,
        "class_right": verdict.cls == WANTED[kind],
        "victim_right": None if victim is None else named == victim,
        "confidence": round(verdict.confidence, 3),
        "seconds": seconds,
        "message": message,
    }


def _relay(folder: Path) -> dict[str, int] | None:
    """What the relay did, where the fault needed one: frames, and how many were lost."""
    path = folder / "injected.json"
    faults = json.loads(path.read_text())["faults"] if path.exists() else []
    return faults[0].get("relay") if faults else None


def _number(host: str | None) -> int | None:
    return None if host is None else int(host.rpartition("-")[2])


def _seconds(folder: Path) -> float:
    """From the fault to its detection; a hang is named by then, a death is known."""
    (fault,) = json.loads((folder / "injected.json").read_text())["faults"]
    evidence = json.loads((folder / "evidence.json").read_text())
    return float(evidence["noticed_ns"] - fault["at_ns"]) / 1e9


@contextmanager
def busy() -> Iterator[None]:
    """A neighbour that computes without pause."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def quiet() -> Iterator[None]:
    yield


def overhead(step: FlightStep, folder: Path) -> dict[str, float]:
    """CPU-seconds per step of publishing a step like this one, and over the step's seconds."""
    board = Board(folder / "rank-0.board", 0, ["compute"])
    recorder = FlightRecorder(folder, 0)
    spans = [Span(i, 0, 0, "compute", "forward", 0, 0, a, b) for i, (a, b) in step.spans.items()]
    rounds = 200
    before = time.process_time()
    for number in range(rounds):
        for span in spans:
            board.turn("compute", span.id)
            board.turn("compute", span.id)
        recorder.write(number, spans, step.arrivals, applied=True, wires=step.wires)
    each = (time.process_time() - before) / rounds + looking()
    length = max(s.stop for s in spans) - min(s.start for s in spans)
    return {"cpu_seconds_per_step": each, "share_of_step": each / (length / 1e9)}


def looking() -> float:
    """CPU-seconds of one look at the counts of :data:`CONNECTIONS` connections."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(CONNECTIONS):
            client = stack.enter_context(socket.socket())
            client.bind(("127.0.0.2", 0))  # a connection of one address with itself is no network
            client.connect(server.getsockname())
        connections = Connections()
        rounds = 20
        before = time.process_time()
        for _ in range(rounds):
            time.sleep(REST_SECONDS)
            connections.since()
        return (time.process_time() - before) / rounds


def run(wanted: dict[str, range]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """All trials in one session, the kinds in turn, and what watching costs.

    ``wanted``: the seeds of each kind.
    """
    silent = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    found = []
    turns = [(at, kind, seed) for kind, seeds in wanted.items() for at, seed in enumerate(seeds)]
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        with Rehearsal(job(), base / "logs", silent) as rehearsal:
            rehearsal.calibrate(2)
            for _, kind, seed in sorted(turns, key=lambda turn: turn[0]):
                found.append(trial(rehearsal, kind, seed, base / f"{kind}-{seed}"))
                print(found[-1], flush=True)
        kept = next(base.glob("*/monitor"))
        return found, overhead(read_flight(kept, 0)[-1], base)


def confusion(trials: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """What was injected -> what was said -> how often."""
    return {
        kind: dict(Counter(t["class"] for t in trials if t["kind"] == kind))
        for kind in WANTED
        if any(t["kind"] == kind for t in trials)
    }


def right_of(trial: dict[str, Any]) -> bool:
    """Whether the class is right, and the victim where there is one."""
    return bool(trial["class_right"] and trial["victim_right"] is not False)


def by_kind(trials: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per kind of fault: class and victim right of so many, and seconds until it was noticed."""
    found = {}
    for kind in confusion(trials):
        mine = [t for t in trials if t["kind"] == kind]
        seconds = [t["seconds"] for t in mine if t["seconds"] is not None and kind in FAILING]
        found[kind] = {
            "right": shares.share(
                t["class_right"] and t["victim_right"] is not False for t in mine
            ),
            "class": shares.share(t["class_right"] for t in mine),
            "victim": shares.share(t["victim_right"] is not False for t in mine),
            "seconds": {**record.spread(seconds), "worst": max(seconds)} if seconds else None,
        }
    return found


def summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """The record's body."""
    right = [float(right_of(t)) for t in trials]
    healthy = [t for t in trials if t["kind"] in WELL]
    return {
        "headline": record.headline(
            "share of trials with the right class and victim",
            "none: what was injected",
            {**record.spread(right), "pairs": len(right)},
        ),
        "sizes": SIZES,
        "right": int(sum(right)),
        "trials": len(right),
        "false_alarms": shares.share(t["class"] != "none" for t in healthy),
        "kinds": by_kind(trials),
        "confusion": confusion(trials),
        "each": trials,
    }


def seeds(before: list[dict[str, Any]], kinds: list[str], given: argparse.Namespace) -> Any:
    """The seeds of the trials to run, by kind: never one that the record has."""
    found = {}
    for kind in kinds:
        known = [t["seed"] for t in before if t["kind"] == kind]
        first = 1 + max(known, default=-1)
        count = given.trials if given.up_to is None else max(0, given.up_to - len(known))
        found[kind] = range(first, first + count)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=12, help="of each kind")
    parser.add_argument("--only", default=",".join(WANTED), help="kinds, separated by commas")
    parser.add_argument("--add", action="store_true", help="to the trials of the record")
    parser.add_argument("--up-to", type=int, help="add what is missing to so many of each kind")
    given = parser.parse_args()
    kinds = given.only.split(",")
    adding = given.add or given.up_to is not None
    before = [
        trial
        for trial in (record.read("reliability") or {}).get("each", [])
        if adding or trial["kind"] not in kinds
    ]
    trials, cost = run(seeds(before, kinds, given))
    body = summary([*before, *trials])
    for kind, said in body["confusion"].items():
        print(f"{kind:10} {said}")
    print(f"class and victim right: {body['right']} of {body['trials']}")
    record.write("reliability", {**body, "overhead": cost})
    print(f"\n{fault_tables.faults()}\n\n{fault_tables.confusion()}")


if __name__ == "__main__":
    main()
