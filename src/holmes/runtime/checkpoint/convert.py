"""One plain safetensors file from a checkpoint: whole tensors, whatever the layout was."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from holmes.errors import WriteError
from holmes.runtime.checkpoint.folders import PARTIAL, flush_folder
from holmes.runtime.checkpoint.read import Reader
from holmes.runtime.checkpoint.write import HEADER_ROOM

PARAMETERS = "parameters/"
RANDOM = "random/"


@dataclass(frozen=True)
class Converted:
    """What was written."""

    file: Path
    step: int
    tensors: int
    bytes_: int


def convert(folder: Path, output: Path, *, optimizer: bool = False) -> Converted:
    """Write the parameters of a checkpoint, verified, under the model's own names.

    Host memory must hold them all.

    Args:
        optimizer: write the optimiser's state, too, under the checkpoint's names
            (``exp_avg/...``); parameters keep the model's.

    Raises:
        DataError: the checkpoint is damaged; names file and tensor.
        WriteError: the file exists or cannot be written; nothing is left of it.
    """
    reader = Reader(folder)
    entries = reader.manifest.tensors
    names = {name: name.removeprefix(PARAMETERS) for name in entries}
    chosen = [
        name
        for name in entries
        if name.startswith(PARAMETERS) or (optimizer and not name.startswith(RANDOM))
    ]
    if output.exists():
        raise WriteError(
            "the file exists", where=str(output), next_step="remove it, or give another name"
        )
    _require_room(output, sum(entries[n].elements * entries[n].item_bytes for n in chosen))
    tensors = {names[name]: reader.read(name) for name in chosen}
    fresh = output.with_name(output.name + PARTIAL)
    metadata = {"format": "pt", "step": str(reader.manifest.step)}
    try:
        save_file(tensors, fresh, metadata)
        with fresh.open("rb") as handle:
            os.fsync(handle.fileno())
        fresh.rename(output)
        flush_folder(output.parent)
    except Exception as error:  # safetensors has an error type of its own for a full disk
        fresh.unlink(missing_ok=True)
        raise WriteError(f"cannot write: {error}", where=str(output)) from None
    return Converted(output, reader.manifest.step, len(tensors), output.stat().st_size)


def _require_room(output: Path, bytes_: int) -> None:
    try:
        free = shutil.disk_usage(output.parent).free
    except OSError as error:
        raise WriteError(f"cannot write: {error.strerror}", where=str(output)) from None
    if free < bytes_ + HEADER_ROOM:
        raise WriteError(
            "not enough space for the file",
            where=str(output),
            why=f"it needs {bytes_ / 1e6:.1f} MB, {free / 1e6:.1f} MB are free",
        )
