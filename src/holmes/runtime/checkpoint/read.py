"""Read a checkpoint at any other split, checking every byte that is used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from holmes.errors import DataError
from holmes.runtime.checkpoint.folders import MANIFEST, MARKER, committed
from holmes.runtime.checkpoint.manifest import (
    DTYPES,
    Manifest,
    Piece,
    TensorEntry,
    checksum,
    first_hole,
    parse,
)

Interval = tuple[int, int]


@dataclass(frozen=True)
class Checkpoint:
    """What was read: tensors by name, and the writer's ``meta``."""

    folder: Path
    meta: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a committed checkpoint, checked against its marker.

    Raises:
        DataError: not committed, missing, or changed since.
    """
    try:
        marker = (folder / MARKER).read_bytes().strip()
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise DataError(
            f"not a committed checkpoint: {error.strerror}", where=str(error.filename)
        ) from None
    if hashlib.sha256(data).hexdigest().encode() != marker:
        raise DataError(
            "a checkpoint is damaged",
            where=str(folder / MANIFEST),
            why="the manifest does not match the hash in its commit marker",
        )
    return parse(data, str(folder / MANIFEST))


def read_checkpoint(
    folder: Path, wanted: Mapping[str, Interval | None] | None = None
) -> Checkpoint:
    """Read tensors, whole or in part; how many ranks wrote them does not matter.

    Args:
        folder: a committed checkpoint.
        wanted: name to the half-open interval of the flattened tensor (the result
            is then flat), or to None for the whole in its shape. All tensors,
            whole, if left out.

    Raises:
        DataError: naming file and tensor, when something is missing or damaged.
    """
    manifest = read_manifest(folder)
    asked = dict.fromkeys(manifest.tensors) if wanted is None else dict(wanted)
    for name in asked:
        if name not in manifest.tensors:
            raise DataError(
                f"the checkpoint holds no tensor {name}",
                where=str(folder),
                why="it was written by another model, or with another optimiser",
            )
    results: dict[str, torch.Tensor] = {}
    for name, interval in asked.items():
        entry = manifest.tensors[name]
        start, stop = interval or (0, entry.elements)
        if not 0 <= start <= stop <= entry.elements:
            raise ValueError(f"[{start}, {stop}) is outside {name} {entry.shape}")
        results[name] = torch.empty(stop - start, dtype=_dtype(entry, name, folder))
        hole = first_hole(entry, start, stop)
        if hole is not None:
            raise DataError(f"element {hole} of tensor {name} is in no file", where=str(folder))
    for name, piece, values in _pieces(folder, manifest, asked):
        entry = manifest.tensors[name]
        start, stop = asked[name] or (0, entry.elements)
        first, last = max(start, piece.start), min(stop, piece.stop)
        values = values[first - piece.start : last - piece.start]
        results[name][first - start : last - start] = values
    shaped = {
        name: flat if asked[name] is not None else flat.view(manifest.tensors[name].shape)
        for name, flat in results.items()
    }
    return Checkpoint(folder, manifest.meta, shaped)


def _dtype(entry: TensorEntry, name: str, folder: Path) -> torch.dtype:
    if entry.dtype not in DTYPES:
        raise DataError(f"tensor {name} has unknown type {entry.dtype!r}", where=str(folder))
    return DTYPES[entry.dtype]


def _pieces(
    folder: Path, manifest: Manifest, asked: Mapping[str, Interval | None]
) -> Iterator[tuple[str, Piece, torch.Tensor]]:
    """The pieces that the asked intervals touch, verified; each file is opened once."""
    by_file: dict[str, list[tuple[str, Piece]]] = {}
    for name, interval in asked.items():
        entry = manifest.tensors[name]
        start, stop = interval or (0, entry.elements)
        for piece in entry.pieces:
            if piece.start < stop and start < piece.stop:
                by_file.setdefault(piece.file, []).append((name, piece))
    for file, pieces in by_file.items():
        path = folder / file
        if not path.is_file():
            raise _damaged(path, pieces[0][0], "the file is missing")
        size = path.stat().st_size
        if size != manifest.files.get(file):
            why = f"{size} bytes, {manifest.files.get(file)} were written"
            raise _damaged(path, pieces[0][0], why)
        try:
            with safe_open(path, framework="pt") as handle:
                for name, piece in pieces:
                    yield name, piece, _verified(handle, path, name, piece, manifest)
        except (SafetensorError, OSError) as error:
            raise _damaged(path, pieces[0][0], str(error)) from None


def _verified(handle: Any, path: Path, name: str, piece: Piece, manifest: Manifest) -> torch.Tensor:
    try:
        flat: torch.Tensor = handle.get_tensor(name)
    except SafetensorError as error:
        raise _damaged(path, name, str(error)) from None
    dtype = _dtype(manifest.tensors[name], name, path.parent)
    expected = (piece.stop - piece.start,), dtype
    if (tuple(flat.shape), flat.dtype) != expected:
        raise _damaged(path, name, f"{tuple(flat.shape)} {flat.dtype} instead of {expected}")
    found = checksum(flat)
    if found != piece.crc32:
        raise _damaged(path, name, f"checksum {found:08x}, {piece.crc32:08x} was written")
    return flat


def _damaged(path: Path, tensor: str, why: str) -> DataError:
    return DataError(
        f"a checkpoint is damaged: tensor {tensor}",
        where=str(path),
        why=why,
        next_step="resume from an older checkpoint",
    )


def verify_checkpoint(folder: Path) -> Manifest:
    """Check every byte of a checkpoint.

    Raises:
        DataError: naming the first file and tensor that is damaged.
    """
    manifest = read_manifest(folder)
    for _ in _pieces(folder, manifest, dict.fromkeys(manifest.tensors)):
        pass
    return manifest


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
    found = committed(run)
    for folder in reversed(found):
        try:
            verify_checkpoint(folder)
        except DataError as error:
            say(f"{folder.name} is damaged, trying the one before: {error.what} ({error.where})")
        else:
            return folder
    if found:
        raise DataError(
            f"all {len(found)} checkpoints of this run are damaged",
            where=str(run / "checkpoints"),
            next_step="start again without --resume",
        )
    return None
