"""Where checkpoints lie in a run folder, which of them count, and what is swept away.

``checkpoints/step-<n>`` is whole: it appears by one rename, with the marker
``COMMITTED`` in it. ``*.partial`` was being written or deleted when its process
ended; ``*.replaced`` made way for a newer one of the same step.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from holmes.errors import WriteError

MARKER = "COMMITTED"
MANIFEST = "manifest.json"
PARTIAL = ".partial"
REPLACED = ".replaced"
STEP_NAME = re.compile(r"^step-(\d+)$")


def checkpoint_folder(run: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return run / "checkpoints" / f"step-{step}"


def step_of(folder: Path) -> int:
    """The step that a checkpoint folder is named after."""
    match = STEP_NAME.match(folder.name)
    if match is None:
        raise ValueError(f"{folder.name} is not a checkpoint folder")
    return int(match[1])


def committed(run: Path) -> list[Path]:
    """Committed checkpoints of a run, oldest first. They are not verified here."""
    root = run / "checkpoints"
    if not root.is_dir():
        return []
    found = [p for p in root.iterdir() if STEP_NAME.match(p.name) and (p / MARKER).is_file()]
    return sorted(found, key=step_of)


def latest_committed(run: Path) -> Path | None:
    """The newest committed checkpoint of a run, or None."""
    return next(reversed(committed(run)), None)


def sweep(run: Path) -> list[Path]:
    """Remove what an interrupted run left half-written; call it before any rank writes.

    A ``.replaced`` checkpoint whose successor never came is put back.

    Returns:
        What was removed.

    Raises:
        WriteError: when something cannot be removed.
    """
    root = run / "checkpoints"
    removed: list[Path] = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        whole = path.with_name(path.name.removesuffix(REPLACED))
        if path.name.endswith(REPLACED) and (path / MARKER).is_file() and not whole.exists():
            move(path, whole)
        elif path.name.endswith((PARTIAL, REPLACED)) or _uncommitted(path):
            remove(path)
            removed.append(path)
    return removed


def _uncommitted(path: Path) -> bool:
    return bool(STEP_NAME.match(path.name)) and not (path / MARKER).is_file()


def prune(run: Path, keep: int) -> list[Path]:
    """Delete all but the newest ``keep`` committed checkpoints; at least one stays.

    Returns:
        What was deleted.
    """
    old = committed(run)[: -max(1, keep)]
    for path in old:
        doomed = path.with_name(path.name + PARTIAL)
        move(path, doomed)  # so that a deletion cut short is not taken for a checkpoint
        remove(doomed)
    return old


def move(folder: Path, to: Path) -> None:
    """Rename a folder.

    Raises:
        WriteError: when it cannot be renamed.
    """
    try:
        folder.rename(to)
    except OSError as error:
        raise WriteError(
            f"cannot rename a checkpoint: {error.strerror}", where=str(folder)
        ) from None


def remove(folder: Path) -> None:
    """Delete a folder.

    Raises:
        WriteError: when it cannot be deleted.
    """
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise WriteError(
            f"cannot delete a checkpoint: {error.strerror}", where=str(folder)
        ) from None


def flush_folder(folder: Path) -> None:
    """Force a folder's entries (names, renames) to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
