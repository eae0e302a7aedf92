"""The payload files: plain safetensors, written as a stream, read piece by piece.

The header follows from the manifest alone (names, types, intervals, order, and the id of
the save), so a reader compares it byte by byte instead of trusting it. The library's own
writer is not used because it neither streams nor leaves a moment between its bytes and
the disk; any safetensors reader opens these files.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from holmes.runtime.checkpoint.manifest import ITEM_BYTES, Manifest, Piece

LENGTH_BYTES = 8
CHUNK = 8 << 20
SAFETENSORS = {
    "float64": "F64",
    "int64": "I64",
    "float32": "F32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class Item:
    """One flat tensor of a file."""

    name: str
    dtype: str
    elements: int

    @property
    def bytes_(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Header:
    """The first bytes of a file; ``entries`` are (first byte, name) of each tensor's part."""

    data: bytes
    entries: tuple[tuple[int, str], ...]

    def tensor_at(self, position: int) -> str | None:
        """The tensor whose part of the header a byte belongs to."""
        before = [name for start, name in self.entries if start <= position]
        return before[-1] if before else None


def make_header(items: Sequence[Item], id_: str) -> Header:
    """The header of a file with these tensors, in this order without gaps."""
    text = bytearray(b'{"__metadata__":' + _json({"checkpoint": id_}))
    entries = []
    offset = 0
    for item in items:
        text += b","
        entries.append((LENGTH_BYTES + len(text), item.name))
        said = {
            "dtype": SAFETENSORS[item.dtype],
            "shape": [item.elements],
            "data_offsets": [offset, offset + item.bytes_],
        }
        text += _json(item.name) + b":" + _json(said)
        offset += item.bytes_
    text += b"}"
    text += b" " * (-len(text) % 8)
    return Header(len(text).to_bytes(LENGTH_BYTES, "little") + bytes(text), tuple(entries))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def in_file_order(items: Sequence[Item]) -> list[Item]:
    """Wide types first, so that every tensor is aligned."""
    return sorted(items, key=lambda item: (-ITEM_BYTES[item.dtype], item.name))


def checksum(data: memoryview) -> int:
    """CRC-32: sees every flipped bit and every burst up to 32 bits."""
    return zlib.crc32(data)


def write_payload(
    path: Path, header: Header, payload: Sequence[memoryview], on_phase: Callable[[str], None]
) -> int:
    """Write a file as a stream and force it to disk; its size.

    Args:
        on_phase: told ``write`` in the middle of the file and ``fsync`` before it is forced.

    Raises:
        OSError: as the system gives it.
    """
    with path.open("wb", buffering=0) as handle:
        _write_all(handle, memoryview(header.data))
        for i, data in enumerate(payload):
            if i == len(payload) // 2:
                on_phase("write")
            for start in range(0, len(data), CHUNK):
                _write_all(handle, data[start : start + CHUNK])
        on_phase("fsync")
        os.fsync(handle.fileno())
        return os.fstat(handle.fileno()).st_size


def _write_all(handle: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[handle.write(data) :]


@dataclass(frozen=True)
class Damage:
    """What is wrong with a checkpoint; ``tensor`` None where it belongs to none."""

    file: Path
    tensor: str | None
    reason: str


class PayloadFile:
    """One file of a checkpoint, open for reading; a context manager.

    Raises:
        DamageError: when it is missing, has another size, or its header is not the one
            that the manifest implies.
    """

    def __init__(self, folder: Path, manifest: Manifest, file: str) -> None:
        self.path = folder / file
        self._manifest = manifest
        self.pieces = manifest.by_file.get(file, [])
        items = [Item(n, manifest.tensors[n].dtype, p.elements) for n, p in self.pieces]
        self._header = make_header(items, manifest.id)
        try:
            self._handle = self.path.open("rb")
        except OSError as error:
            self._refuse(0, f"the file cannot be opened: {error.strerror}")
        try:
            self._check_header(manifest.files.get(file, 0))
        except BaseException:
            self._handle.close()
            raise

    def __enter__(self) -> PayloadFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.close()

    def read(self, name: str, piece: Piece) -> bytearray:
        """The bytes of a piece.

        Raises:
            DamageError: when they are not those that were written.
        """
        data = bytearray(piece.elements * self._manifest.tensors[name].item_bytes)
        try:
            self._handle.seek(len(self._header.data) + piece.offset)
            got = self._handle.readinto(data)
        except OSError as error:
            raise DamageError(Damage(self.path, name, f"cannot be read: {error}")) from None
        found = checksum(memoryview(data))
        if got != len(data) or found != piece.crc32:
            why = f"checksum {found:08x}, {piece.crc32:08x} was written"
            raise DamageError(Damage(self.path, name, why))
        return data

    def damages(self) -> Iterator[Damage]:
        """What is wrong with its tensors."""
        for name, piece in self.pieces:
            try:
                self.read(name, piece)
            except DamageError as found:
                yield found.damage

    def _check_header(self, size: int) -> None:
        actual = os.fstat(self._handle.fileno()).st_size
        found = self._handle.read(len(self._header.data))
        if actual != size:
            self._refuse(actual, f"{actual} bytes, {size} were written")
        if found != self._header.data:
            pairs = enumerate(zip(found, self._header.data, strict=True))
            position = next(i for i, (a, b) in pairs if a != b)
            other = found[LENGTH_BYTES:].startswith(b'{"__metadata__"') and (
                self._manifest.id.encode() not in found
            )
            reason = f"byte {position} of the header is not what was written"
            self._refuse(position, "the file is of another checkpoint" if other else reason)

    def _refuse(self, position: int, reason: str) -> None:
        """Raise for the tensor that the byte at ``position`` belongs to."""
        start = len(self._header.data)
        if position < start:
            tensor = self._header.tensor_at(position) or (self.pieces[0][0] if self.pieces else "")
        else:
            held = [n for n, p in self.pieces if p.offset <= position - start]
            tensor = held[-1] if held else ""
        raise DamageError(Damage(self.path, tensor or None, reason))


class DamageError(Exception):
    """Carries a :class:`Damage` to whoever turns it into a report or an error."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(damage.reason)
        self.damage = damage
