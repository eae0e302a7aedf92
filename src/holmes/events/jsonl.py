"""Files of one JSON object a line, written by one process and read by anyone.

A line counts once its newline is on disk. A writer that is killed leaves at most
one unterminated line; readers skip it and the next append removes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from holmes.errors import DataError, WriteError

_BLOCK = 4096


def append_objects(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    """Append objects, one line each, in a single write.

    Raises:
        WriteError: when the file cannot be opened or written.
    """
    text = "".join(
        json.dumps(item, separators=(",", ":"), allow_nan=False) + "\n" for item in objects
    )
    try:
        with path.open("ab+") as file:
            _drop_unterminated(file.fileno())
            file.write(text.encode())
    except OSError as error:
        raise WriteError(
            f"cannot append to {path.name}: {error.strerror}",
            where=str(path),
            next_step="make the run folder writable, or choose another with --name",
        ) from None


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``("file:line", object)`` for every complete line; empty lines are skipped.

    Raises:
        DataError: when the file cannot be read, or a complete line is no JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read {path.name}: {error.strerror}", where=str(path)) from None
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            value = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            raise DataError("this line is not JSON", where=where, why=str(error)) from None
        if value is None and not line.strip():
            continue
        if not isinstance(value, dict):
            if number == len(lines):
                return
            raise DataError(
                f"expected a JSON object, found {type(value).__name__}",
                where=where,
                why="each line of this file is one object",
            )
        yield where, value


def keep_objects(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines that ``keep`` refuses; a file that is not there stays away.

    Raises:
        DataError: a complete line is no JSON object.
        WriteError: when the file cannot be replaced.
    """
    if not path.exists():
        return
    kept = [item for _, item in read_objects(path) if keep(item)]
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    append_objects(fresh, kept)
    fresh.replace(path)


def _drop_unterminated(descriptor: int) -> None:
    """Cut the file back to its last newline."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK)
        newline = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end < size:
        os.ftruncate(descriptor, end)
