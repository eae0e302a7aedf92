"""A tiny real job on four ranks of this machine, and its unfaulted end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.launch.context import RankContext
from holmes.runtime.checkpoint.folders import latest_committed
from holmes.runtime.checkpoint.read import read_checkpoint
from holmes.train.assignment import Assignment
from holmes.train.planning import default_calibration
from holmes.train.rehearsal import Rehearsal
from holmes.train.show import Progress
from holmes.train.tasks import open_plan_groups

FLAT = (
    "{name: flat, clusters: [{name: a, nodes: 4, device: {kind: cpu-core, count: 1}, "
    "nics: [{kind: ethernet, gbit_s: 1.0}]}], rehearsal: {scale: 1}}"
)
STEPS = 10


def text_of(folder: Path) -> Path:
    """Text of its own, so that nothing is tokenised twice or downloaded."""
    text = folder / "text"
    text.mkdir(exist_ok=True)
    for i in range(4):
        lines = [f"line {n} of play {i}: to be or not to be {n * 7 % 13}" for n in range(400)]
        (text / f"{i}.txt").write_text("\n".join(lines))
    return text


def words(folder: Path, *more: str) -> list[str]:
    """The job as on the command line."""
    return [
        f"site={FLAT}",
        "model={preset: gpt-1m, layers: 3, hidden: 32, heads: 2, sequence: 16, tied: false, "
        "vocabulary: 300}",
        f"data={{source: {text_of(folder)}, vocabulary: 300, cache: {folder / 'cache'}}}",
        "batch={global: 12, micro: 1}",
        "parallel={pipeline: 2, data: 2, sharding: optimizer}",
        f"train={{steps: {STEPS}, evaluate_batches: 0, trace_steps: 2, checkpoint_every: 3, "
        "keep_checkpoints: 9, deadline_seconds: 20}",
        f"output={folder / 'runs'}",
        *more,
    ]


def job(folder: Path, *more: str) -> ResolvedJob:
    return resolve_job(None, words(folder, *more), {})


def opened(folder: Path, lines: list[str], *, rehearse: bool = False) -> Rehearsal:
    """A session for :func:`job`; ``lines`` gets what it says."""
    progress = Progress(lines.append, lambda name, steps: lambda rank, report: None)
    found = Rehearsal(job(folder), folder / "logs", progress, rehearse=rehearse)
    found.calibration = default_calibration(job(folder))
    return found


def parameters(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    """The state after the last step."""
    newest = latest_committed(run)
    assert newest is not None and newest.name == f"step-{step}"
    return read_checkpoint(newest).tensors


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def listening(context: RankContext, assignment: dict[str, Any]) -> dict[str, Any]:
    """The addresses that this rank's own sockets listen on while its groups are open."""
    given = Assignment.from_json(assignment)
    with open_plan_groups(given, given.logical_rank(context), context):
        return {"listening": listening_of("self")}


def listening_of(pid: int | str) -> list[str]:
    """The addresses, in the kernel's hexadecimal, that the sockets of a process listen on."""
    folder = Path(f"/proc/{pid}")
    mine = set()
    for entry in (folder / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            mine.add(str(entry.readlink()))
    found = []
    for name in ("tcp", "tcp6"):
        for line in (folder / "net" / name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                found.append(fields[1].partition(":")[0])
    return found
