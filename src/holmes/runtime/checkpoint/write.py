"""Write a checkpoint: every rank its shards, then one rename that makes it count.

Order: shards and their checksums, forced to disk; all ranks meet; rank 0 merges
what they say into the manifest, then the marker, then renames the folder. A
process killed at any moment leaves the previous checkpoint untouched.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from holmes.errors import WriteError
from holmes.runtime.checkpoint.folders import (
    MANIFEST,
    MARKER,
    PARTIAL,
    REPLACED,
    flush_folder,
    remove,
)
from holmes.runtime.checkpoint.manifest import Piece, Shard, checksum, dtype_name, merge

HEADER_ROOM = 1 << 20
"""Bytes asked for beyond the tensors: headers, manifest, and the file system's own."""


def write_checkpoint(
    folder: Path,
    rank: int,
    world: int,
    shards: Mapping[str, Shard],
    meta: Mapping[str, Any],
    barrier: Callable[[], None],
) -> None:
    """Write ``folder`` (see :func:`checkpoint_folder`); all ranks call this together.

    Every rank reaches every barrier, also when its own writing fails, so that no one
    waits for it; then all of them raise.

    Args:
        folder: on a file system that all ranks share.
        rank: of the caller.
        world: number of ranks.
        shards: this rank's part of each named tensor. The parts of all ranks must
            cover each tensor; parts that overlap must be equal.
        meta: JSON-ready; rank 0's is stored.
        barrier: returns when all ranks have called it.

    Raises:
        WriteError: disk full, no permission, or another rank failed. Nothing of the
            new checkpoint is left; older ones are as they were.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    problem: Exception | None = None
    if rank == 0:
        problem = _attempt(lambda: _fresh(partial), partial)
    barrier()
    problem = problem or _attempt(lambda: _write_rank(partial, rank, shards), partial)
    if problem:
        _discard_rank(partial, rank)
    barrier()
    if rank == 0:
        problem = problem or _attempt(lambda: _commit(folder, partial, world, dict(meta)), partial)
        if problem:
            shutil.rmtree(partial, ignore_errors=True)
    barrier()
    if problem:
        raise problem
    if partial.exists() or not (folder / MARKER).is_file():
        raise WriteError(
            "the checkpoint was not written: another rank failed",
            where=str(folder),
            next_step="its log names the reason; older checkpoints are untouched",
        )


def _attempt(action: Callable[[], None], where: Path) -> Exception | None:
    """Run ``action``; what went wrong as a value, so that the caller can go on to a barrier."""
    try:
        action()
    except (OSError, SafetensorError) as error:
        full = f"os error {errno.ENOSPC}" in str(error) or (
            isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        )
        return WriteError(
            f"cannot write the checkpoint: {error}",
            where=str(where),
            next_step="free some space, or keep fewer checkpoints" if full else None,
        )
    except Exception as error:
        return error
    return None


def _fresh(partial: Path) -> None:
    """An empty folder to write in, also where an earlier attempt left one."""
    if partial.exists():
        remove(partial)
    partial.mkdir(parents=True)


def _write_rank(partial: Path, rank: int, shards: Mapping[str, Shard]) -> None:
    host = _on_host(shards)
    needed = sum(t.numel() * t.element_size() for t in host.values()) + HEADER_ROOM
    _require_space(partial, needed)
    file = f"rank-{rank}.safetensors"
    tensors = {
        name: {
            "shape": list(shards[name].global_shape),
            "dtype": dtype_name(flat.dtype),
            "pieces": [vars(Piece(file, shards[name].start, shards[name].stop, checksum(flat)))],
        }
        for name, flat in host.items()
    }
    files = {}
    if host:
        files[file] = _write_tensors(partial / file, host)
    said = json.dumps({"files": files, "tensors": tensors}).encode()
    _write_bytes(partial / f"rank-{rank}.json", said)


def _on_host(shards: Mapping[str, Shard]) -> dict[str, torch.Tensor]:
    """Flat tensors in host memory, empty shards left out, no two in one storage.

    Shards are often views of one bucket, and a safetensors file must hold each apart.
    """
    host: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, shard in shards.items():
        if shard.stop == shard.start:
            continue
        flat = shard.tensor.detach().reshape(-1).to("cpu").contiguous()
        if flat.untyped_storage().data_ptr() in storages:
            flat = flat.clone()
        storages.add(flat.untyped_storage().data_ptr())
        host[name] = flat
    return host


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WriteError(
            "not enough space for the checkpoint",
            where=str(folder.parent),
            why=f"this rank needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free",
            next_step="free some space, or keep fewer checkpoints",
        )


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> int:
    """Write and force to disk; the file's size."""
    save_file(tensors, path)
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
        return os.fstat(handle.fileno()).st_size


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _discard_rank(partial: Path, rank: int) -> None:
    """Delete what a rank wrote before it failed, so that rank 0 sees it is missing."""
    for path in partial.glob(f"rank-{rank}.*"):
        path.unlink(missing_ok=True)


def _commit(folder: Path, partial: Path, world: int, meta: dict[str, Any]) -> None:
    said = [partial / f"rank-{rank}.json" for rank in range(world)]
    missing = [str(rank) for rank, path in enumerate(said) if not path.is_file()]
    if missing:
        raise WriteError(
            f"the checkpoint was not written: rank {', '.join(missing)} left nothing",
            where=str(folder),
            why="it failed, or does not share this file system",
            next_step="see the log of that rank; older checkpoints are untouched",
        )
    manifest = merge([json.loads(path.read_bytes()) for path in said], meta).to_json()
    for path in said:
        path.unlink()
    _write_bytes(partial / MANIFEST, manifest)
    _write_bytes(partial / MARKER, hashlib.sha256(manifest).hexdigest().encode() + b"\n")
    flush_folder(partial)
    replaced = folder.with_name(folder.name + REPLACED)
    if folder.exists():
        folder.rename(replaced)
    try:
        partial.rename(folder)
    except OSError:
        if replaced.exists():
            replaced.rename(folder)
        raise
    flush_folder(folder.parent)
    if replaced.exists():
        remove(replaced)
