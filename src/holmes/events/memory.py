"""``memory/rank-<n>.jsonl``: what a rank held after each step, in bytes."""

from __future__ import annotations

from pathlib import Path

from holmes.errors import DataError
from holmes.events.jsonl import append_objects, read_objects

FOLDER = "memory"
STATM = Path("/proc/self/statm")


def append_memory(run: Path, rank: int, step: int, bytes_: int) -> None:
    """Append one line of a rank.

    Raises:
        WriteError: when the file cannot be written.
    """
    path = run / FOLDER / f"rank-{rank}.jsonl"
    path.parent.mkdir(exist_ok=True)
    append_objects(path, [{"step": step, "bytes": bytes_}])


def read_memory(run: Path) -> dict[int, list[tuple[int, int]]]:
    """(step, bytes) of every rank, in step order; a resumed step counts once, as it was last.

    Raises:
        DataError: naming file and line, where a line is wrong.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for path in (run / FOLDER).glob("rank-*.jsonl"):
        name = path.stem.removeprefix("rank-")
        if name.isdigit():
            found[int(name)] = _of_rank(path)
    return dict(sorted(found.items()))


def _of_rank(path: Path) -> list[tuple[int, int]]:
    by_step: dict[int, int] = {}
    for where, item in read_objects(path):
        step, bytes_ = item.get("step"), item.get("bytes")
        if type(step) is not int or type(bytes_) is not int or bytes_ < 0:
            raise DataError("`step` and `bytes` must be integers", where=where)
        by_step[step] = bytes_
    return sorted(by_step.items())
