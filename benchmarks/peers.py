"""The same job by this runtime and by PyTorch's DDP, FSDP2 and pipelining, in one session.

Real computation, not paced. On a fast homogeneous site the cost of the software counts:
processor seconds per step and rank, and wall time. On the demo's two clusters wall time does:
PyTorch's own have one process group, so it goes over Ethernet.

Run it as `PYTHONPATH=. python benchmarks/peers.py`: ranks import `benchmarks.peer_tasks`.
In parts: `--only CASE`; the record keeps the other cases. DeepSpeed compiles kernels when it
starts and is left out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import arms
import record
from holmes.job.resolve import ResolvedJob
from holmes.plan.plan import Plan
from holmes.train.assignment import Assignment
from holmes.train.rehearsal import Progress, Rehearsal

STEPS, WARM_UP, DEADLINE, ROUNDS = 9, 3, 300.0, 3
BUSY_LIMIT, WALL_LIMIT = 1.05, 1.10
FAST = (
    "{name: fast, clusters: [{name: c0, nodes: 2, device: {kind: cpu-core}, "
    "nics: [{kind: ethernet, gbit_s: 4}]}], rehearsal: {scale: 1}}"
)


@dataclass(frozen=True)
class Case:
    """A layout of ours and the one of the peer's that it stands against."""

    peer: str
    site: str
    ours: str
    on: str


TWO = "pipeline: 2, data: 2, sharding: optimizer"
CASES = {
    "ddp": Case("ddp", FAST, "pipeline: 1, data: 2, sharding: none", "fast"),
    "fsdp2": Case("fsdp2", FAST, "pipeline: 1, data: 2, sharding: parameters", "fast"),
    "pipelining": Case("torch pipelining", FAST, "pipeline: 2, data: 1, schedule: 1f1b", "fast"),
    "ddp-two": Case("ddp", "demo", TWO, "two clusters"),
    "fsdp2-two": Case("fsdp2", "demo", TWO, "two clusters"),
}


def job(case: Case) -> ResolvedJob:
    """The job of both arms of a case."""
    return arms.settings(
        f"site={case.site}",
        "model={preset: gpt-5m, sequence: 128, vocabulary: 2048, tied: false}",
        "data={source: shakespeare, vocabulary: 2048}",
        "batch={global: 16, micro: 2}",
        f"parallel={{{case.ours}, recompute: none}}",
        f"train={{steps: {STEPS}, trace_steps: 0, evaluate_batches: 0}}",
    )


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Both arms in turn, ours twice for the resolution."""
    resolved = job(case)
    quiet = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    found: dict[str, list[Any]] = {"ours": [], "peer": [], "ours again": []}
    with tempfile.TemporaryDirectory() as folder, _open(resolved, folder, quiet) as rehearsal:
        plan = rehearsal.plan(resolved)
        _ours(rehearsal, plan, Path(folder) / "warm-up")
        for turn in range(rounds):
            for name in found:
                if name == "peer":
                    ranks = _peer(rehearsal, case, plan)
                else:
                    ranks = _ours(rehearsal, plan, Path(folder) / f"{name}-{turn}")
                found[name].append(_figures(ranks))
                print(f"{case.on}, {case.peer}: {name} {found[name][-1]}", flush=True)
    ratios = {
        f"{kind}_{label}": record.paired_ratio(
            [one[kind] for one in found["ours"]], [one[kind] for one in found[other]]
        )
        for kind in ("wall", "busy")
        for label, other in (("over_peer", "peer"), ("over_itself", "ours again"))
    }
    return {"peer": case.peer, "on": case.on, "ours": case.ours, "runs": found, **ratios}


def _open(resolved: ResolvedJob, folder: str, quiet: Progress) -> Rehearsal:
    return Rehearsal(resolved, Path(folder) / "logs", quiet)


def _ours(rehearsal: Rehearsal, plan: Plan, run: Path) -> Sequence[Mapping[str, Any]]:
    run.mkdir(parents=True)
    assignment = Assignment(
        job=rehearsal.resolved.job,
        plan=plan,
        run_folder=run,
        steps=STEPS,
        seats_are_devices=True,
        interface_override=rehearsal.session.interface_override,
        tokens=rehearsal.tokens,
        save=False,
    )
    words = {"assignment": assignment.to_json()}
    return _run(rehearsal, "benchmarks.peer_tasks:ours", words)


def _peer(rehearsal: Rehearsal, case: Case, plan: Plan) -> Sequence[Mapping[str, Any]]:
    world = next(group for group in plan.groups if group.axis == "world")
    interfaces = {node: names[0] for node, names in world.interfaces.items()}
    words = {
        "job": rehearsal.resolved.job.model_dump(by_alias=True, mode="json"),
        "kind": case.peer,
        "interfaces": interfaces,
    }
    return _run(rehearsal, "benchmarks.peer_tasks:peer", words)


def _run(rehearsal: Rehearsal, task: str, words: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return rehearsal.session.run(task, words, deadline_seconds=DEADLINE, operation_seconds=DEADLINE)


def _figures(ranks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Median step of the slowest rank, and mean over ranks of the median processor seconds."""
    return {
        "wall": max(median(rank["wall"][WARM_UP:]) for rank in ranks),
        "busy": fmean(median(rank["busy"][WARM_UP:]) for rank in ranks),
    }


def figures(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record's body, of all cases that were measured."""
    sites = dict.fromkeys(case["on"] for case in cases)
    site = "fast" if "fast" in sites else next(iter(sites))
    chosen = [case for case in cases if case["on"] == site]
    ratios = {
        kind: [ratio for case in chosen for ratio in _ratios(case["runs"], kind)]
        for kind in ("busy", "wall")
    }
    return {
        "headline": record.headline(
            f"processor seconds per step and rank, site: {site}",
            "its peer, in the same session",
            {**record.spread(ratios["busy"]), "pairs": len(ratios["busy"])},
        ),
        "wall": record.spread(ratios["wall"]),
        "cases": list(cases),
        "limits": {"busy": BUSY_LIMIT, "wall": WALL_LIMIT},
        "resolution": {f"{c['on']}, {c['peer']}": c["wall_over_itself"] for c in cases},
        "sizes": f"gpt-5m at sequence 128, 8 micro-batches of 2 in all, {STEPS} steps a run",
    }


def _ratios(runs: Mapping[str, Any], kind: str) -> list[float]:
    return [a[kind] / b[kind] for a, b in zip(runs["ours"], runs["peer"], strict=True)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--only", choices=CASES, action="append", help="may be repeated")
    given = parser.parse_args()
    kept = {case["name"]: case for case in (record.read("peers") or {}).get("cases", [])}
    for name in given.only or CASES:
        case = CASES[name]

        def body(name: str = name, case: Case = case) -> dict[str, Any]:
            kept[name] = {"name": name, **measure(case, given.rounds)}
            return figures([kept[one] for one in CASES if one in kept])

        record.write("peers", record.with_drift(body))


if __name__ == "__main__":
    main()
