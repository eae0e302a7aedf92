"""Where checkpoints lie in a run folder, which of them count, and what is swept away.

``checkpoints/step-<n>`` is whole: it appears by one rename, with the marker
``COMMITTED`` in it. ``*.partial`` was being written or deleted when its process
ended; ``*.replaced`` made way for a newer one of the same step. ``latest`` names the
newest one and the hash of its manifest; it is replaced by a rename, too.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from holmes.errors import WriteError

ROOT = "checkpoints"
MARKER = "COMMITTED"
MANIFEST = "manifest.json"
LATEST = "latest"
PARTIAL = ".partial"
REPLACED = ".replaced"
STEP_NAME = re.compile(r"^step-(\d+)$")


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest ``last``, and every one at a multiple of ``every``
    steps (0: no others)."""

    last: int = 2
    every: int = 0

    def doomed(self, steps: list[int]) -> list[int]:
        """Of ascending steps those to delete; the newest always stays."""
        old = steps[: -max(1, self.last)]
        return [step for step in old if not (self.every and step % self.every == 0)]


def checkpoint_folder(run: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return run / ROOT / f"step-{step}"


def step_of(folder: Path) -> int:
    """The step that a checkpoint folder is named after."""
    match = STEP_NAME.match(folder.name)
    if match is None:
        raise ValueError(f"{folder.name} is not a checkpoint folder")
    return int(match[1])


def step_folders(run: Path) -> list[Path]:
    """All folders named after a step, oldest first, whatever is in them."""
    root = run / ROOT
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if STEP_NAME.match(p.name)), key=step_of)


def leftovers(run: Path) -> list[Path]:
    """What was being written, deleted or replaced when a process ended."""
    root = run / ROOT
    found = sorted(root.iterdir()) if root.is_dir() else []
    return [p for p in found if p.name.endswith((PARTIAL, REPLACED))]


def committed(run: Path) -> list[Path]:
    """Committed checkpoints of a run, oldest first. They are not verified here."""
    return [folder for folder in step_folders(run) if (folder / MARKER).is_file()]


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
    removed: list[Path] = []
    for path in leftovers(run):
        whole = path.with_name(path.name.removesuffix(REPLACED))
        if path.name.endswith(REPLACED) and (path / MARKER).is_file() and not whole.exists():
            move(path, whole)
        else:
            _sweep_away(path)
            removed.append(path)
    return removed


def _sweep_away(path: Path) -> None:
    """Delete a leftover; a process that still writes into it must not find it any more."""
    if path.is_dir():
        doomed = path.with_name(path.name + PARTIAL)
        remove(doomed)
        move(path, doomed)
        path = doomed
    remove(path)


def prune(run: Path, keep: Keep) -> list[Path]:
    """Delete the committed checkpoints that need not be kept.

    Returns:
        What was deleted.

    Raises:
        WriteError: when something cannot be deleted.
    """
    by_step = {step_of(folder): folder for folder in committed(run)}
    deleted = [by_step[step] for step in keep.doomed(list(by_step))]
    for path in deleted:
        doomed = path.with_name(path.name + PARTIAL)
        move(path, doomed)  # so that a deletion cut short is not taken for a checkpoint
        remove(doomed)
    return deleted


def pointer_to(folder: Path) -> bytes:
    """What ``latest`` holds when it points at a committed checkpoint."""
    return f"{folder.name} ".encode() + (folder / MARKER).read_bytes()


def point_latest(folder: Path) -> None:
    """Let ``latest`` point at a checkpoint, in one rename.

    Raises:
        OSError: when it cannot be written.
    """
    latest = folder.parent / LATEST
    fresh = latest.with_name(LATEST + PARTIAL)
    write_durably(fresh, pointer_to(folder))
    fresh.rename(latest)
    flush_folder(latest.parent)


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


def remove(path: Path) -> None:
    """Delete a folder or file.

    Raises:
        WriteError: when it cannot be deleted.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"cannot delete a checkpoint: {error.strerror}", where=str(path)) from None


def write_durably(path: Path, data: bytes) -> None:
    """Write a small file and force it to disk.

    Raises:
        OSError: when it cannot be written.
    """
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def flush_folder(folder: Path) -> None:
    """Force a folder's entries (names, renames) to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
