"""Few large flows over two equal paths: all on one, as ports hash, and spread by source port.

Two emulated hosts, a multipath route of the kernel between them, plain TCP. Many flows are the
case with little to gain: their hashes even out. Then a path dies, or slows to a quarter, while
flows run; they may move, or (the baseline) stay on their ports.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import record
from holmes.errors import HolmesError
from holmes.lab.paths import RECEIVER, SENDER, PathLab, address
from holmes.planner.paths import spread
from holmes.runtime.paths.connection import Route
from holmes.runtime.paths.ports import find_ports
from holmes.runtime.paths.receiver import Receiver
from holmes.runtime.paths.sender import Sender, Sent

GBIT_S = 0.4
PATHS = 2
TOTAL_MIB = 64
CASES = {"4 flows": 4, "16 flows": 16}
COLLIDING, HASHED, PLANNED, AGAIN = "colliding", "hashed", "planned", "planned again"
ARMS = (COLLIDING, HASHED, PLANNED, AGAIN)
FAULTS = ("dies", "slows")
STEERED, FIXED = "steered", "fixed"
FAULT_TOTAL_MIB = 192
FAULT_SECONDS = 0.8
SLOWED = 0.25
TRIALS = 3
LIMIT_SECONDS = 10.0
"""A transfer that is not there by then counts as not ended."""
PORT = 7000
HASHED_PORTS = range(30_000, 60_000)
MIB = 1 << 20
Ports = Mapping[str, Sequence[int]]


class Bench:
    """The lab with its receiver and the ports that were found."""

    def __init__(self, lab: PathLab) -> None:
        self.lab = lab
        self.route = Route(address(SENDER), address(RECEIVER), PORT, lab.paths)
        lab.start(RECEIVER, lambda: Receiver(address(RECEIVER), PORT).serve(3600))
        time.sleep(1.0)
        self.ports: Ports = self._on_sender(lambda: find_ports(self.route, max(CASES.values())))

    def drawn(self, flows: int, seed: int) -> Ports:
        """Ports drawn at random, as a library would get them, and where each leads."""
        ports = random.Random(seed).sample(HASHED_PORTS, flows)
        found: Ports = self._on_sender(lambda: find_ports(self.route, flows + 1, candidates=ports))
        return found

    def used(self, arm: str, flows: int, seed: int) -> Ports:
        """The source ports of an arm's flows, by path."""
        names = self.lab.paths
        if arm == HASHED:
            return self.drawn(flows, seed)
        size = TOTAL_MIB * MIB / flows
        chosen = [0] * flows if arm == COLLIDING else spread([size] * flows, [1.0] * len(names))
        return {name: self.ports[name][: chosen.count(i)] for i, name in enumerate(names)}

    def transfer(
        self, used: Ports, total_mib: int, *, steer: bool, fault: Callable[[], None] | None = None
    ) -> Sent:
        """Move the bytes, in equal flows from these ports."""
        ports = [port for found in used.values() for port in found]
        sizes = [total_mib * MIB // len(ports)] * len(ports)
        known = {name: (*used[name], *self.ports[name]) for name in self.lab.paths}
        sender = Sender(self.route, known, steer=steer)
        program = self.lab.start(SENDER, lambda: sender.send(sizes, ports, LIMIT_SECONDS))
        if fault is not None:
            time.sleep(FAULT_SECONDS)
            fault()
        sent: Sent = program.result(2 * LIMIT_SECONDS)
        return sent

    def _on_sender(self, function: Callable[[], Any]) -> Any:
        return self.lab.start(SENDER, function).result()


def run_case(bench: Bench, flows: int, rounds: int) -> dict[str, Any]:
    """Every arm in turn; seconds and bytes by path, read off the cards."""
    found: dict[str, Any] = {
        arm: {"links": "shaped", "seconds": [], "ideal": [], "bytes": []} for arm in ARMS
    }
    for seed in range(rounds):
        for arm, kept in found.items():
            used = bench.used(arm, flows, seed)
            before = bench.lab.counters(SENDER)
            sent = bench.transfer(used, TOTAL_MIB, steer=False)
            after = bench.lab.counters(SENDER)
            bytes_ = {name: (after[name] - before[name]).tx_bytes for name in bench.lab.paths}
            kept["seconds"].append(sent.seconds)
            kept["bytes"].append(bytes_)
            kept["ideal"].append(max(bytes_.values()) * 8 / (GBIT_S * 1e9))
            print(f"round {seed + 1}: {flows} flows, {arm:14s} {sent.seconds:6.3f} s", flush=True)
    for kept in found.values():
        kept |= record.spread(kept["seconds"])
    gains = {
        arm: record.paired_ratio(found[arm]["seconds"], found[PLANNED]["seconds"])
        for arm in (COLLIDING, HASHED)
    }
    return {"arms": found, "gains": gains}


def run_fault(bench: Bench, fault: str, arm: str) -> dict[str, Any]:
    """One transfer of four flows with a fault on the second path."""
    last = PATHS - 1
    strike, mend = {
        "dies": (lambda: bench.lab.path_down(last), lambda: bench.lab.path_up(last)),
        "slows": (
            lambda: bench.lab.set_rate(last, GBIT_S * SLOWED),
            lambda: bench.lab.set_rate(last, GBIT_S),
        ),
    }[fault]
    used = bench.used(PLANNED, CASES["4 flows"], 0)
    try:
        sent = bench.transfer(used, FAULT_TOTAL_MIB, steer=arm == STEERED, fault=strike)
    except HolmesError as error:
        print(f"{fault}, {arm}: {error.what}", flush=True)
        return {"took": None, "noticed": None, "paused": None}
    finally:
        mend()
    print(f"{fault}, {arm}: {sent.seconds:.3f} s", flush=True)
    first = sent.moves[0].seconds - FAULT_SECONDS if sent.moves else None
    paused = sum(move.paused for move in sent.moves)
    return {"took": sent.seconds, "noticed": first, "paused": paused}


def run_faults(bench: Bench) -> dict[str, Any]:
    """Both arms in turn, for every fault."""
    found: dict[str, Any] = {fault: {STEERED: [], FIXED: []} for fault in FAULTS}
    for fault, arms in found.items():
        for _ in range(TRIALS):
            for arm, trials in arms.items():
                trials.append(run_fault(bench, fault, arm))
    return found


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    with PathLab.up([GBIT_S] * PATHS) as lab:
        bench = Bench(lab)
        cases = {case: run_case(bench, flows, rounds) for case, flows in CASES.items()}
        faults = run_faults(bench)
    few = cases["4 flows"]["gains"]
    return {
        "headline": record.headline(
            "time of 4 flows, hashed over planned ports", HASHED, few[HASHED]
        ),
        "cases": cases,
        "faults": faults,
        "limit_seconds": LIMIT_SECONDS,
        "resolution": {
            case: record.paired_ratio(
                found["arms"][PLANNED]["seconds"], found["arms"][AGAIN]["seconds"]
            )
            for case, found in cases.items()
        },
        "sizes": f"{TOTAL_MIB} MiB in all, {PATHS} paths of {GBIT_S:g} Gbit/s; with a fault "
        f"{FAULT_TOTAL_MIB} MiB in 4 flows, struck after {FAULT_SECONDS:g} s (slows: to "
        f"{SLOWED:.0%} of the rate)",
    }


if __name__ == "__main__":
    record.main("paths", figures, rounds=9)
