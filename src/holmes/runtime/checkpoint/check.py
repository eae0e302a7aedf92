"""Check checkpoints byte by byte, without torch: what is damaged, and which one is good."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from holmes.errors import DataError
from holmes.runtime.checkpoint.folders import (
    LATEST,
    MANIFEST,
    MARKER,
    ROOT,
    STEP_NAME,
    committed,
    pointer_to,
    step_folders,
    step_of,
)
from holmes.runtime.checkpoint.manifest import Manifest, gap, parse
from holmes.runtime.checkpoint.payload import Damage, DamageError, PayloadFile


def marker_of(manifest: bytes) -> bytes:
    """What the commit marker of a manifest holds: its hash, twice, so that a marker which
    was damaged itself is told from a damaged manifest."""
    found = hashlib.sha256(manifest).hexdigest()
    return f"{found} {found}\n".encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a committed checkpoint, checked against its marker and its folder.

    Raises:
        DataError: not committed, missing, changed since, or of another step or version.
    """
    try:
        marker = (folder / MARKER).read_bytes()
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise DataError(
            f"not a committed checkpoint: {error.strerror}", where=str(error.filename)
        ) from None
    if marker_of(data) != marker:
        raise _inconsistent(folder, marker)
    manifest = parse(data, str(folder / MANIFEST))
    if STEP_NAME.match(folder.name) and step_of(folder) != manifest.step:
        raise DataError(
            "a checkpoint is damaged",
            where=str(folder / MANIFEST),
            why=f"the manifest is of step {manifest.step}, the folder of step {step_of(folder)}",
        )
    for name, entry in manifest.tensors.items():
        missing = gap(entry)
        if missing is not None:
            raise DataError(f"{missing} of tensor {name} is in no file", where=str(folder))
    return manifest


def _inconsistent(folder: Path, marker: bytes) -> DataError:
    """Manifest and marker differ; a marker that contradicts itself is the one to blame."""
    words = marker.split(b" ")
    sound = len(words) == 2 and len(words[0]) == 64 and words[1] == words[0] + b"\n"
    return DataError(
        "a checkpoint is damaged",
        where=str(folder / (MANIFEST if sound else MARKER)),
        why="the manifest does not match the hash in its commit marker"
        if sound
        else "the commit marker does not hold one hash twice",
    )


def damages(folder: Path) -> Iterator[Damage]:
    """Everything that is wrong with one checkpoint; every byte is read."""
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        yield Damage(Path(error.where or folder), None, error.why or error.what)
        return
    for file in manifest.files:
        try:
            with PayloadFile(folder, manifest, file) as payload:
                yield from payload.damages()
        except DamageError as found:
            yield found.damage


def damaged(damage: Damage) -> DataError:
    """The error of a damage, for whoever needs the checkpoint."""
    tensor = f": tensor {damage.tensor}" if damage.tensor else ""
    return DataError(
        f"a checkpoint is damaged{tensor}",
        where=str(damage.file),
        why=damage.reason,
        next_step="resume from an older checkpoint",
    )


def verify_checkpoint(folder: Path) -> Manifest:
    """Check every byte of a checkpoint.

    Raises:
        DataError: naming the first file and tensor that is damaged.
    """
    manifest = read_manifest(folder)
    for damage in damages(folder):
        raise damaged(damage)
    return manifest


def pointer_damage(run: Path) -> Damage | None:
    """What is wrong with ``latest``; it may lag behind, but must point at a checkpoint.

    A run that was killed right after its first commit has none yet.
    """
    latest = run / ROOT / LATEST
    found = committed(run)
    try:
        said = latest.read_bytes()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        return Damage(latest, None, reason) if len(found) > 1 else None
    if any(said == pointer_to(folder) for folder in found):
        return None
    return Damage(latest, None, "it points at no committed checkpoint")


def run_damages(run: Path) -> Iterator[Damage]:
    """Everything that is wrong with the checkpoints of a run, also in older ones."""
    for folder in step_folders(run):
        yield from damages(folder)
    pointer = pointer_damage(run)
    if pointer is not None:
        yield pointer


def newest_good(run: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of a run that verifies, or None.

    Args:
        say: told one line for each damaged checkpoint that is passed over.
    """
    for folder in reversed(committed(run)):
        wrong = next(damages(folder), None)
        if wrong is None:
            return folder
        tensor = f", tensor {wrong.tensor}" if wrong.tensor else ""
        where = f"{wrong.file}{tensor}"
        say(f"{folder.name} is damaged, trying the one before: {wrong.reason} ({where})")
    return None


def latest_good(run: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of a run that verifies; None when none was committed.

    One process decides (or all of them read the same files), then every rank reads
    the folder it is given: ranks must not fall back each on their own.

    Args:
        run: the run folder.
        say: told one line for each damaged checkpoint that is passed over.

    Raises:
        DataError: when there are checkpoints and all of them are damaged.
    """
    folder = newest_good(run, say)
    count = len(committed(run))
    if folder is None and count:
        raise DataError(
            f"all {count} checkpoints of this run are damaged",
            where=str(run / ROOT),
            next_step=f"holmes checkpoint verify {run} says what is wrong with them; "
            "training can only start anew, without --resume",
        )
    return folder
