"""A folder in Hugging Face format from a checkpoint of any layout.

Tensors are put together one file at a time, so host memory holds one file; the folder is
made beside its place and appears by one rename.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from holmes.data.tokenizer import from_file
from holmes.errors import DataError, WriteError
from holmes.job.resolve import resolve_job
from holmes.models.common.hf.names import FolderLayout
from holmes.models.common.hf.store import INDEX, SINGLE
from holmes.models.registry import describe, family_of, weights_module
from holmes.runtime.checkpoint.convert import PARAMETERS
from holmes.runtime.checkpoint.folders import PARTIAL, flush_folder, remove, write_durably
from holmes.runtime.checkpoint.read import Reader

FILE_BYTES = 2 * 2**30
"""Most bytes of one file, unless one tensor has more."""
ROOM = 2**20
"""Bytes for headers and the small files."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    step: int
    tensors: int
    bytes_: int


@dataclass(frozen=True)
class _Stored:
    """A tensor of the folder: the parameters that are stacked in it, in order."""

    name: str
    parts: tuple[str, ...]
    transposed: bool
    bytes_: int


def export(run: Path, checkpoint: Path, output: Path, file_bytes: int = FILE_BYTES) -> Exported:
    """Write the model of a run as `transformers` loads it, with its tokenizer.

    Args:
        checkpoint: a committed one of the run.
        output: the folder to make.

    Raises:
        ConfigError: the model has no Hugging Face architecture.
        DataError: the checkpoint is damaged, or of another model.
        WriteError: the folder exists, or cannot be written; nothing is left of it.
    """
    job = resolve_job(run / "job.yaml").job
    family = family_of(job.model)
    weights, config = weights_module(family), describe(family).config_from(job.model)
    layout, reader = weights.layout(config), Reader(checkpoint)
    stored = list(_stored(layout, reader))
    if output.exists():
        raise WriteError(
            "the folder exists", where=str(output), next_step="remove it, or give another name"
        )
    _require_room(output, sum(tensor.bytes_ for tensor in stored))
    partial = output.with_name(output.name + PARTIAL)
    try:
        if partial.exists():
            remove(partial)
        partial.mkdir()
        _write_tensors(partial, _files(stored, file_bytes), reader)
        _write_json(
            partial / "config.json", _config(weights.folder_config(config), run, stored, reader)
        )
        _copy_tokenizer(run, partial)
        flush_folder(partial)
        partial.rename(output)
        flush_folder(output.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # safetensors has an error type of its own for a full disk
        if isinstance(error, OSError) or type(error).__module__.startswith("safetensors"):
            raise WriteError(f"cannot write: {error}", where=str(output)) from None
        raise
    size = sum(file.stat().st_size for file in output.iterdir())
    return Exported(output, reader.manifest.step, len(stored), size)


def _stored(layout: FolderLayout, reader: Reader) -> Iterator[_Stored]:
    """The folder's tensors, each with the parameters of the checkpoint that it is made from."""
    by_name: dict[str, list[str]] = {}
    for ours, source in layout.sources.items():
        by_name.setdefault(layout.stored_name(source), []).append(ours)
    for name, parts in by_name.items():
        parts.sort(key=lambda ours: layout.sources[ours].start)
        entries = [reader.manifest.tensors.get(PARAMETERS + ours) for ours in parts]
        size = 0
        for ours, entry in zip(parts, entries, strict=True):
            if entry is None:
                raise DataError(
                    f"the checkpoint holds no parameter {ours}",
                    where=str(reader.folder),
                    why="it is of another model than the run's job",
                )
            size += entry.elements * entry.item_bytes
        transposed = layout.sources[parts[0]].transposed
        yield _Stored(name, tuple(parts), transposed, size)


def _files(stored: list[_Stored], most: int) -> list[list[_Stored]]:
    """Tensors by file, in order."""
    files: list[list[_Stored]] = [[]]
    room = most
    for tensor in stored:
        if files[-1] and tensor.bytes_ > room:
            files.append([])
            room = most
        files[-1].append(tensor)
        room -= tensor.bytes_
    return files


def _write_tensors(folder: Path, files: list[list[_Stored]], reader: Reader) -> None:
    places: dict[str, str] = {}
    for number, stored in enumerate(files, 1):
        several = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        path = folder / (SINGLE if len(files) == 1 else several)
        save_file({t.name: _tensor(t, reader) for t in stored}, path, {"format": "pt"})
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
        places |= {tensor.name: path.name for tensor in stored}
    if len(files) > 1:
        total = sum(tensor.bytes_ for stored in files for tensor in stored)
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _tensor(stored: _Stored, reader: Reader) -> Tensor:
    parts = [reader.read(PARAMETERS + ours) for ours in stored.parts]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (whole.T if stored.transposed and whole.dim() > 1 else whole).contiguous()


def _config(
    values: Mapping[str, Any], run: Path, stored: list[_Stored], reader: Reader
) -> dict[str, Any]:
    """config.json, with the type of the tensors and the token that closes a document."""
    dtype = reader.manifest.tensors[PARAMETERS + stored[0].parts[0]].dtype
    end = from_file(run).end_of_text if (run / TOKENIZER_FILES[0]).exists() else None
    ends = {"bos_token_id": None, "eos_token_id": end}
    return {**values, **ends, "dtype": dtype, "torch_dtype": dtype, "use_cache": True}


def _copy_tokenizer(run: Path, folder: Path) -> None:
    """The run's tokenizer, where it has kept one."""
    for name in TOKENIZER_FILES:
        if (run / name).exists():
            shutil.copyfile(run / name, folder / name)


def keep_tokenizer(run: Path, file: Path, end: str, sequence: int) -> None:
    """Put a tokenizer into a run folder, as it will be exported.

    Raises:
        WriteError: the folder cannot be written.
    """
    try:
        shutil.copyfile(file, run / TOKENIZER_FILES[0])
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": end,
            "model_max_length": sequence,
        }
        _write_json(run / TOKENIZER_FILES[1], config)
    except OSError as error:
        raise WriteError(f"cannot write the tokenizer: {error.strerror}", where=str(run)) from None


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_durably(path, (json.dumps(values, indent=2) + "\n").encode())


def _require_room(output: Path, bytes_: int) -> None:
    try:
        free = shutil.disk_usage(output.absolute().parent).free
    except OSError as error:
        raise WriteError(f"cannot write: {error.strerror}", where=str(output)) from None
    needed = bytes_ + ROOM
    if free < needed:
        raise WriteError(
            "not enough space for the folder",
            where=str(output),
            why=f"it needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free",
        )
