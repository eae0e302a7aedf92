"""The manifest: for each named tensor its shape, type, and the pieces it lies in.

A piece is an interval of a flattened tensor in one file, with the CRC-32 of its bytes
taken in memory before they were written. Because pieces are intervals of named tensors,
any other split can be read from them. A piece may also be an interval of a flattened
*box* of the tensor: what a rank of a tensor or context axis holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from holmes.errors import DataError

SCHEMA_VERSION = 1
ITEM_BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "bfloat16": 2,
    "float16": 2,
    "uint8": 1,
    "bool": 1,
}
Box = tuple[tuple[int, int], ...]
"""A half-open interval of every dimension."""


@dataclass(frozen=True)
class Piece:
    """Elements [start, stop) of a flattened box of a tensor, at byte ``offset`` of the payload.

    ``box`` None is the whole tensor.
    """

    file: str
    offset: int
    start: int
    stop: int
    crc32: int
    box: Box | None = None

    @property
    def elements(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of the checkpoint; ``dtype`` is a name of :data:`ITEM_BYTES`."""

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def item_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]

    def boxes(self) -> dict[Box, list[Piece]]:
        """Pieces by the box they are intervals of; the whole tensor is a box too."""
        whole = tuple((0, size) for size in self.shape)
        found: dict[Box, list[Piece]] = {}
        for piece in self.pieces:
            found.setdefault(piece.box or whole, []).append(piece)
        return found


@dataclass(frozen=True)
class Manifest:
    """Everything a checkpoint says of itself.

    Attributes:
        id: drawn for this save; it also stands in the header of every file.
        step: the step that comes next.
        world: how many ranks wrote it.
        meta: the writer's (layout, digests, data position, seconds it took).
        files: file name to size in bytes.
    """

    id: str
    step: int
    world: int
    meta: dict[str, Any]
    files: dict[str, int]
    tensors: dict[str, TensorEntry]

    def to_json(self) -> bytes:
        """The manifest file's content."""
        value = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return (json.dumps(value, indent=1) + "\n").encode()

    @property
    def bytes_(self) -> int:
        """Size of all payload files."""
        return sum(self.files.values())

    @cached_property
    def by_file(self) -> dict[str, list[tuple[str, Piece]]]:
        """What each file holds, in the order of the file."""
        found: dict[str, list[tuple[str, Piece]]] = {file: [] for file in self.files}
        for name, entry in self.tensors.items():
            for piece in entry.pieces:
                found.setdefault(piece.file, []).append((name, piece))
        for held in found.values():
            held.sort(key=lambda item: item[1].offset)
        return found


def volume(box: Box) -> int:
    """Elements of a box."""
    return math.prod(stop - start for start, stop in box)


def gap(entry: TensorEntry) -> str | None:
    """What of a tensor no piece holds, in words; None when it is complete."""
    boxes = entry.boxes()
    for box, pieces in boxes.items():
        missing = first_hole(pieces, 0, volume(box))
        if missing is not None:
            part = "" if volume(box) == entry.elements else f" of the part {box}"
            return f"element {missing}{part}"
    for one, other in combinations(boxes, 2):
        if all(a[0] < b[1] and b[0] < a[1] for a, b in zip(one, other, strict=True)):
            return f"parts {one} and {other} overlap"
    held = sum(map(volume, boxes))
    return None if held == entry.elements else f"{entry.elements - held} elements"


def first_hole(pieces: Sequence[Piece], start: int, stop: int) -> int | None:
    """The first element of [start, stop) that no piece of a box holds, or None."""
    reached = start
    for piece in sorted(pieces, key=lambda p: p.start):
        if piece.start <= reached < piece.stop:
            reached = piece.stop
    return reached if reached < stop else None


def merge(ranks: Sequence[dict[str, Any]]) -> tuple[dict[str, int], dict[str, TensorEntry]]:
    """Files and tensors from what each rank says it wrote.

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
            pieces.setdefault(name, []).append(_piece(said["piece"]))
    tensors = {
        name: TensorEntry(*found[name], tuple(sorted(parts, key=lambda p: (p.start, p.stop))))
        for name, parts in pieces.items()
    }
    for name, entry in tensors.items():
        missing = gap(entry)
        if missing is not None:
            raise DataError(
                f"no rank wrote all of tensor {name}",
                where=f"{missing} of {entry.elements} elements",
                why="the shards of all ranks must cover every tensor once",
            )
    return files, tensors


def parse(data: bytes, where: str) -> Manifest:
    """The manifest in a file.

    Raises:
        DataError: when it is none, or of another schema version.
    """
    try:
        value = json.loads(data)
        version = value["schema_version"]
        if version != SCHEMA_VERSION:
            raise DataError(
                f"checkpoint schema version {version!r}, this holmes reads {SCHEMA_VERSION}",
                where=where,
                next_step="read it with the holmes that wrote it",
            )
        tensors = {
            name: TensorEntry(
                tuple(map(int, said["shape"])),
                said["dtype"],
                tuple(_piece(piece) for piece in said["pieces"]),
            )
            for name, said in value["tensors"].items()
        }
        unknown = [name for name, entry in tensors.items() if entry.dtype not in ITEM_BYTES]
        if unknown:
            raise ValueError(f"tensor {unknown[0]} is of type {tensors[unknown[0]].dtype!r}")
        fields = ("id", "step", "world", "meta", "files")
        return Manifest(**{name: value[name] for name in fields}, tensors=tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "a checkpoint's manifest cannot be read",
            where=where,
            why=f"{type(error).__name__}: {error}",
        ) from None


def _piece(said: dict[str, Any]) -> Piece:
    box = said.get("box")
    return Piece(**{**said, "box": box and tuple((int(a), int(b)) for a, b in box)})
