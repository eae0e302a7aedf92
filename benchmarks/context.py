"""Attention of one long sample: memory per rank against the number of context ranks, and under
a limit that attention on one rank does not pass.

Every rank is a process. Its peak is that of resident memory over forward and backward, less
what was resident before (the kernel's high-water mark, reset first), so arms do not share it.
The limit is a memory control group, one for each rank; where none can be made, a limit of the
data segment, and the record says which.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import record
from holmes.plan.chunks import deal
from holmes.runtime.communicator import Communicator
from holmes.runtime.context.attention import context_attention
from holmes.runtime.context.axis import ContextAxis
from holmes.runtime.context.blocks import TILE, Rule
from holmes.runtime.context.reference import full_attention

LENGTH, FEATURES = 16384, 128
"""One head; so long that a rank's tensors outweigh the tile of scores that each holds."""
LONG, LONG_FEATURES = 16384, 64
LIMIT = 1 << 30
"""Bytes of a rank under the limit, its process included."""
GROUPS = Path("/sys/fs/cgroup/memory")
DEADLINE_SECONDS = 240
_numbers = itertools.count()


@dataclass(frozen=True)
class Arm:
    """What the ranks run: ``algorithm`` None is plain attention with its whole scores."""

    algorithm: str | None
    ranks: int
    length: int
    features: int
    limited: bool = False


def attend(arm: Arm, rank: int, store: str, group: str | None, answers: Queue[Any]) -> None:
    """One rank: forward and backward under the limit; puts its peak in bytes."""
    torch.set_num_threads(1)
    if arm.limited:
        _limit(group)
    axis = None
    if arm.algorithm is not None:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=arm.ranks
        )
        comm = Communicator(
            "context", tuple(range(arm.ranks)), rank, "loopback", "gloo",
            timedelta(seconds=DEADLINE_SECONDS), dist.group.WORLD,
        )  # fmt: skip
        axis = ContextAxis(comm)
    _forward_and_backward(arm, axis, 1024 * arm.ranks)  # what libraries load once is not counted
    before = _reset_peak()
    _forward_and_backward(arm, axis, arm.length)
    answers.put((rank, _status("VmHWM") - before))


def _forward_and_backward(arm: Arm, axis: ContextAxis | None, length: int) -> None:
    """Attention of one sample of one head, this rank's tokens of it."""
    shape = (1, 1, length // arm.ranks, arm.features)
    q, k, v = (torch.randn(shape).requires_grad_() for _ in range(3))
    if axis is None:
        out = full_attention(q, k, v, causal=True)
    else:
        chunks = deal(length, arm.ranks, arm.algorithm)  # type: ignore[arg-type]
        out = context_attention(q, k, v, axis, chunks, arm.algorithm, rule=Rule(True))  # type: ignore[arg-type]
    out.sum().backward()
    assert q.grad is not None and bool(q.grad.isfinite().all())


def run(arm: Arm) -> dict[str, Any]:
    """All ranks of an arm: their peaks, or that one of them was ended."""
    # Every tensor a mapping of its own, so that what is freed is not resident.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
    context = multiprocessing.get_context("spawn")
    answers: Queue[Any] = context.Queue()
    groups = [_make_group() if arm.limited else None for _ in range(arm.ranks)]
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=attend, args=(arm, i, f"{folder}/store", groups[i], answers))
            for i in range(arm.ranks)
        ]
        for process in ranks:
            process.start()
        until = time.monotonic() + DEADLINE_SECONDS
        while any(p.is_alive() for p in ranks) and time.monotonic() < until:
            if any(p.exitcode not in (None, 0) for p in ranks):
                break  # one is gone: the others would wait for it
            time.sleep(0.05)
        codes = [p.exitcode for p in ranks]
        for process in ranks:
            process.kill()
            process.join()
    peaks = [answers.get(timeout=5)[1] for code in codes if code == 0]
    for group in groups:
        if group is not None:
            Path(group).rmdir()
    return {
        "algorithm": arm.algorithm or "full",
        "ranks": arm.ranks,
        "length": arm.length,
        "peak_bytes": max(peaks) if len(peaks) == arm.ranks else None,
        "exit_codes": codes,
    }


def figures(rounds: int) -> dict[str, Any]:
    """Peaks for N = 1, 2, 4, 8 in turn; then both arms under the limit."""
    free: dict[int, list[float]] = {1: [], 2: [], 4: [], 8: []}
    for _ in range(rounds):
        for ranks, peaks in free.items():
            found = run(Arm("ring", ranks, LENGTH, FEATURES))
            assert found["peak_bytes"] is not None, found
            peaks.append(found["peak_bytes"])
    limited = {
        "full": run(Arm(None, 1, LONG, LONG_FEATURES, limited=True)),
        "ring": run(Arm("ring", 4, LONG, LONG_FEATURES, limited=True)),
    }
    assert limited["full"]["peak_bytes"] is None, "plain attention passed the limit"
    assert limited["ring"]["peak_bytes"] is not None, "the ring did not pass the limit"
    ratio = record.paired_ratio(free[4], free[8])
    return {
        "headline": record.headline(
            "memory of a rank of a ring, 4 over 8 ranks", "2, as the tokens", ratio
        ),
        "sizes": {
            "length": LENGTH,
            "features": FEATURES,
            "long": LONG,
            "long_features": LONG_FEATURES,
        },
        "peaks": {str(ranks): record.spread(peaks) for ranks, peaks in free.items()},
        "fixed_bytes": fixed_bytes(free[4], free[8]),
        "tile_bytes": 4 * TILE**2,
        "limit_bytes": LIMIT,
        "limit": "memory control group" if _can_group() else "data segment of the process",
        "limited": limited,
    }


def fixed_bytes(fewer: Sequence[float], twice: Sequence[float]) -> float:
    """What does not fall with the tokens of a rank: c of c + a/N, from N and 2 N ranks."""
    return 2 * statistics.median(twice) - statistics.median(fewer)


def _can_group() -> bool:
    return os.access(GROUPS, os.W_OK)


def _make_group() -> str | None:
    if not _can_group():
        return None
    group = GROUPS / f"holmes-context-{os.getpid()}-{next(_numbers)}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(LIMIT))
    return str(group)


def _limit(group: str | None) -> None:
    """Put this process under the limit."""
    if group is None:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    else:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))


def _status(key: str) -> int:
    """Bytes of a line of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def _reset_peak() -> int:
    """Begin a new high-water mark; what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


if __name__ == "__main__":
    record.main("context", figures, rounds=3)
