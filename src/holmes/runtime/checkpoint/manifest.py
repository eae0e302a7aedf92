"""The manifest: for each named tensor its shape, type, and the pieces it lies in.

A piece is an interval of the flattened tensor in one file, with the CRC-32 of its
bytes taken in memory before they were written. Because pieces are intervals of
named tensors, any other split can be read from them.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import torch

from holmes.errors import DataError

FORMAT = 1
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


@dataclass(frozen=True)
class Shard:
    """What one rank holds of a tensor: elements [start, stop) of it, flattened.

    Raises:
        ValueError: when the interval does not fit the tensor or the global shape.
    """

    tensor: torch.Tensor
    global_shape: tuple[int, ...]
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= math.prod(self.global_shape):
            raise ValueError(f"[{self.start}, {self.stop}) is outside {self.global_shape}")
        if self.tensor.numel() != self.stop - self.start:
            raise ValueError(
                f"{self.tensor.numel()} elements for the interval [{self.start}, {self.stop})"
            )


@dataclass(frozen=True)
class Piece:
    """One interval of a tensor, stored in ``file`` under the tensor's name."""

    file: str
    start: int
    stop: int
    crc32: int


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of the checkpoint; ``dtype`` is a name of :data:`DTYPES`."""

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """Everything a checkpoint says of itself.

    ``meta`` is the writer's (step, digests of job and plan, random state, data
    position); ``files`` maps file name to size in bytes.
    """

    world: int
    meta: dict[str, Any]
    files: dict[str, int]
    tensors: dict[str, TensorEntry]

    def to_json(self) -> bytes:
        """The manifest file's content."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n").encode()


def dtype_name(dtype: torch.dtype) -> str:
    """The manifest's name of a torch type.

    Raises:
        ValueError: for a type that checkpoints do not hold.
    """
    for name, known in DTYPES.items():
        if known is dtype:
            return name
    raise ValueError(f"tensors of type {dtype} are not stored")


def checksum(flat: torch.Tensor) -> int:
    """CRC-32 of the bytes of a contiguous tensor in host memory."""
    return zlib.crc32(flat.reshape(-1).view(torch.uint8).numpy().data)


def merge(ranks: list[dict[str, Any]], meta: dict[str, Any]) -> Manifest:
    """One manifest from what each rank says it wrote.

    Raises:
        DataError: when ranks disagree about a tensor, or leave a part of it out.
    """
    files: dict[str, int] = {}
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    pieces: dict[str, list[Piece]] = {}
    for rank in ranks:
        files.update(rank["files"])
        for name, said in rank["tensors"].items():
            kind = (tuple(said["shape"]), str(said["dtype"]))
            if found.setdefault(name, kind) != kind:
                raise DataError(
                    f"ranks disagree about tensor {name}", why=f"{found[name]} and {kind}"
                )
            pieces.setdefault(name, []).extend(Piece(**piece) for piece in said["pieces"])
    tensors = {
        name: TensorEntry(*found[name], tuple(sorted(parts, key=lambda p: (p.start, p.stop))))
        for name, parts in pieces.items()
    }
    for name, entry in tensors.items():
        hole = first_hole(entry, 0, entry.elements)
        if hole is not None:
            raise DataError(
                f"no rank wrote all of tensor {name}",
                where=f"element {hole} of {entry.elements}",
                why="the shards of all ranks must cover every tensor",
            )
    return Manifest(len(ranks), meta, files, tensors)


def first_hole(entry: TensorEntry, start: int, stop: int) -> int | None:
    """The first element of [start, stop) that no piece holds, or None."""
    reached = start
    for piece in sorted(entry.pieces, key=lambda p: p.start):
        if piece.start <= reached < piece.stop:
            reached = piece.stop
    return reached if reached < stop else None


def parse(data: bytes, where: str) -> Manifest:
    """The manifest in a file.

    Raises:
        DataError: when it is none.
    """
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise DataError(
                f"checkpoint format {value['format']!r}, this holmes reads {FORMAT}", where=where
            )
        tensors = {
            name: TensorEntry(
                tuple(said["shape"]), said["dtype"], tuple(Piece(**p) for p in said["pieces"])
            )
            for name, said in value["tensors"].items()
        }
        return Manifest(value["world"], value["meta"], value["files"], tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "a checkpoint's manifest cannot be read",
            where=where,
            why=f"{type(error).__name__}: {error}",
        ) from None
