"""What checkpoints a run has and in which state they are. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from holmes.errors import DataError
from holmes.runtime.checkpoint.check import damages, read_manifest
from holmes.runtime.checkpoint.folders import (
    LATEST,
    MARKER,
    ROOT,
    STEP_NAME,
    leftovers,
    step_folders,
)
from holmes.runtime.checkpoint.manifest import Manifest
from holmes.runtime.checkpoint.payload import Damage

State = Literal["good", "damaged", "uncommitted"]


@dataclass(frozen=True)
class Listed:
    """One folder below ``checkpoints``; ``manifest`` None where it cannot be read.

    ``modified`` is the time of its last change, seconds since the epoch.
    """

    folder: Path
    state: State
    bytes_: int
    modified: float
    manifest: Manifest | None = None
    damage: Damage | None = None

    @property
    def layout(self) -> dict[str, Any]:
        """Degrees and ranks it was written with, empty where that is not known."""
        if self.manifest is None:
            return {}
        return {"ranks": self.manifest.world, **self.manifest.meta.get("layout", {})}


def listing(run: Path) -> list[Listed]:
    """All checkpoints of a run, oldest first, each verified; then what is left over.

    Raises:
        DataError: the run has no folder of checkpoints.
    """
    root = run / ROOT
    if not root.is_dir():
        raise DataError("there are no checkpoints", where=str(root))
    return [*map(_listed, step_folders(run)), *map(_listed, leftovers(run))]


def pointed(run: Path) -> str | None:
    """The folder that ``latest`` names, or None."""
    try:
        words = (run / ROOT / LATEST).read_bytes().split()
    except OSError:
        return None
    return words[0].decode(errors="replace") if words else None


def _listed(folder: Path) -> Listed:
    size = sum(_sizes(folder))
    modified = folder.stat().st_mtime
    whole = STEP_NAME.match(folder.name)
    if not whole or not (folder / MARKER).is_file():
        return Listed(folder, "uncommitted", size, modified)
    try:
        manifest = read_manifest(folder)
    except DataError:
        manifest = None
    wrong = next(damages(folder), None)
    return Listed(folder, "damaged" if wrong else "good", size, modified, manifest, wrong)


def _sizes(folder: Path) -> Iterator[int]:
    files = folder.iterdir() if folder.is_dir() else [folder]
    return (path.stat().st_size for path in files if path.is_file())


def locate(path: Path) -> tuple[Path, Path | None]:
    """The run of a path, and the step folder where the path is one.

    Args:
        path: a run folder, its ``checkpoints``, or one step folder.

    Raises:
        DataError: it is none of these.
    """
    path = path.absolute()
    if (path / ROOT).is_dir():
        return path, None
    if path.is_dir() and path.name == ROOT:
        return path.parent, None
    named = path.name.startswith("step-") or (path / MARKER).exists()
    if path.is_dir() and named:
        return path.parent.parent, path
    raise DataError(
        "there are no checkpoints",
        where=str(path),
        why="neither a run folder nor a checkpoint's folder",
        next_step="give runs/NAME, or runs/NAME/checkpoints/step-N",
    )
