"""Read a checkpoint at any other split, checking every byte that is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holmes.errors import DataError
from holmes.runtime.checkpoint.check import damaged, latest_good, read_manifest, verify_checkpoint
from holmes.runtime.checkpoint.manifest import Box, Manifest, Piece, TensorEntry, volume
from holmes.runtime.checkpoint.payload import DamageError, PayloadFile
from holmes.runtime.checkpoint.shard import tensor_of, torch_dtype

__all__ = ["Checkpoint", "Reader", "latest_good", "read_checkpoint", "verify_checkpoint"]

Interval = tuple[int, int]
OPEN_FILES = 64


@dataclass(frozen=True)
class Checkpoint:
    """What was read: tensors by name, and the writer's ``meta``."""

    folder: Path
    meta: dict[str, Any]
    tensors: dict[str, Tensor]


class Reader:
    """Reads tensors of one checkpoint; how many ranks wrote them does not matter.

    Raises:
        DataError: the folder is not a committed checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self._file = lru_cache(OPEN_FILES)(partial(PayloadFile, folder, self.manifest))

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.tensors

    def read(self, name: str, interval: Interval | None = None) -> Tensor:
        """One tensor in its shape, or the half-open interval of it, flattened.

        Raises:
            DataError: naming file and tensor, when something is missing or damaged.
        """
        entry = self._entry(name)
        start, stop = interval or (0, entry.elements)
        if not 0 <= start <= stop <= entry.elements:
            raise ValueError(f"[{start}, {stop}) is outside {name} {entry.shape}")
        boxes = entry.boxes()
        if any(volume(box) != entry.elements for box in boxes):
            flat = self._from_boxes(name, entry, boxes).reshape(-1)[start:stop]
        else:
            flat = self._assemble(name, entry, entry.pieces, (start, stop))
        return flat if interval else flat.view(entry.shape)

    def _entry(self, name: str) -> TensorEntry:
        if name not in self.manifest.tensors:
            raise DataError(
                f"the checkpoint holds no tensor {name}",
                where=str(self.folder),
                why="it was written by another model, or with another optimiser",
            )
        return self.manifest.tensors[name]

    def _from_boxes(
        self, name: str, entry: TensorEntry, boxes: Mapping[Box, list[Piece]]
    ) -> Tensor:
        whole = torch.empty(entry.shape, dtype=torch_dtype(entry.dtype))
        for box, pieces in boxes.items():
            part = self._assemble(name, entry, pieces, (0, volume(box)))
            place = tuple(slice(low, high) for low, high in box)
            whole[place] = part.view([high - low for low, high in box])
        return whole

    def _assemble(
        self, name: str, entry: TensorEntry, pieces: Iterable[Piece], wanted: Interval
    ) -> Tensor:
        start, stop = wanted
        flat = torch.empty(stop - start, dtype=torch_dtype(entry.dtype))
        for piece in pieces:
            first, last = max(start, piece.start), min(stop, piece.stop)
            if first < last:
                values = tensor_of(self._read_piece(name, piece), entry.dtype)
                flat[first - start : last - start] = values[
                    first - piece.start : last - piece.start
                ]
        return flat

    def _read_piece(self, name: str, piece: Piece) -> bytearray:
        try:
            return self._file(piece.file).read(name, piece)
        except DamageError as found:
            raise damaged(found.damage) from None


def read_checkpoint(
    folder: Path, wanted: Mapping[str, Interval | None] | None = None
) -> Checkpoint:
    """Read several tensors, whole or in part.

    Args:
        folder: a committed checkpoint.
        wanted: name to the half-open interval of the flattened tensor (the result
            is then flat), or to None for the whole in its shape. All tensors,
            whole, if left out.

    Raises:
        DataError: naming file and tensor, when something is missing or damaged.
    """
    reader = Reader(folder)
    asked = dict.fromkeys(reader.manifest.tensors) if wanted is None else dict(wanted)
    tensors = {name: reader.read(name, interval) for name, interval in asked.items()}
    return Checkpoint(folder, reader.manifest.meta, tensors)
