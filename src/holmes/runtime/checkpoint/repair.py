"""Put a run's checkpoints in order after a crash: pointer and leftovers. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holmes.errors import WriteError
from holmes.runtime.checkpoint.check import damages, newest_good
from holmes.runtime.checkpoint.folders import (
    LATEST,
    MANIFEST,
    MARKER,
    REPLACED,
    ROOT,
    leftovers,
    move,
    point_latest,
    pointer_to,
    remove,
    step_folders,
)

DAMAGED = ".damaged"


@dataclass(frozen=True)
class Action:
    """One thing that is done, or would be."""

    act: str
    path: Path
    reason: str


def repair(run: Path, *, dry_run: bool = False) -> list[Action]:
    """Remove what was never committed, put back what was being replaced, point ``latest``.

    A committed checkpoint is never deleted, damaged or not.

    Raises:
        WriteError: when something cannot be renamed, removed or written.
    """
    done = [*_leftovers(run, dry_run=dry_run), *_uncommitted(run, dry_run=dry_run)]
    return done + _pointer(run, dry_run=dry_run)


def _good(folder: Path) -> bool:
    return next(damages(folder), None) is None


def _leftovers(run: Path, *, dry_run: bool) -> list[Action]:
    done = []
    for path in leftovers(run):
        whole = path.with_name(path.name.removesuffix(REPLACED))
        if not path.name.endswith(REPLACED) or not (path / MARKER).is_file():
            done.append(Action("remove", path, "was never committed, or was being deleted"))
        elif not whole.exists():
            done.append(Action("restore", path, "its successor was never committed"))
        elif _good(whole):
            done.append(Action("remove", path, f"{whole.name} took its place"))
        elif _good(path):
            done.append(Action("restore", path, f"{whole.name}, which took its place, is damaged"))
    for action in () if dry_run else done:
        whole = action.path.with_name(action.path.name.removesuffix(REPLACED))
        if action.act == "restore" and whole.exists():
            _set_aside(whole)
        if action.act == "restore":
            move(action.path, whole)
        else:
            remove(action.path)
    return done


def _uncommitted(run: Path, *, dry_run: bool) -> list[Action]:
    """Folders without a marker. One with a manifest lost it later, so it is only set aside."""
    done = []
    for path in step_folders(run):
        if (path / MARKER).is_file():
            continue
        if (path / MANIFEST).is_file():
            done.append(Action("set aside", path, "its commit marker is missing"))
        else:
            done.append(Action("remove", path, "it was never committed"))
    for action in () if dry_run else done:
        if action.act == "remove":
            remove(action.path)
        else:
            _set_aside(action.path)
    return done


def _set_aside(path: Path) -> None:
    """Rename to a name that nothing reads."""
    name = path.name + DAMAGED
    taken = len(list(path.parent.glob(f"{name}*")))
    move(path, path.with_name(f"{name}.{taken}" if taken else name))


def _pointer(run: Path, *, dry_run: bool) -> list[Action]:
    latest = run / ROOT / LATEST
    good = newest_good(run, lambda line: None)
    if good is None:
        if latest.exists() and not dry_run:
            remove(latest)
        return [Action("remove", latest, "no good checkpoint is left")] if latest.exists() else []
    if latest.is_file() and latest.read_bytes() == pointer_to(good):
        return []
    if not dry_run:
        try:
            point_latest(good)
        except OSError as error:
            raise WriteError(f"cannot write: {error.strerror}", where=str(latest)) from None
    return [Action("point", latest, f"{good.name} is the newest good one")]
