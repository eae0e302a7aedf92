"""Token files: ids as little-endian integers, memory-mapped, beside a JSON header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from holmes.data.cache import write_atomic
from holmes.errors import DataError

FORMAT = 2
Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Tokens:
    """Ids of all documents of one split, one after the other.

    Attributes:
        ids: [tokens], uint16 or uint32, not in memory until read.
        documents: names, in order.
        vocabulary: every id is below it.
        digest: SHA-256 of the ids.
        end: the id that closes a document.
    """

    ids: Ids
    documents: tuple[str, ...]
    vocabulary: int
    digest: str
    end: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def header_path(path: Path) -> Path:
    """The header that stands beside a token file."""
    return path.with_suffix(".json")


def write_tokens(
    path: Path,
    documents: Sequence[tuple[str, Sequence[int] | npt.NDArray[Any]]],
    vocabulary: int,
    end: int = 0,
) -> Tokens:
    """Write the ids of named documents; the header last, since it vouches for the rest.

    Raises:
        WriteError: when the folder cannot be written.
    """
    dtype = np.dtype("<u2" if vocabulary <= 2**16 else "<u4")
    hasher = hashlib.sha256()
    count = 0

    def write(handle: BinaryIO) -> None:
        nonlocal count
        for _, ids in documents:
            data = np.asarray(ids, dtype=dtype).tobytes()
            hasher.update(data)
            handle.write(data)
            count += len(ids)

    write_atomic(path, write)
    header = {
        "format": FORMAT,
        "dtype": dtype.str,
        "tokens": count,
        "vocabulary": vocabulary,
        "end": end,
        "sha256": hasher.hexdigest(),
        "documents": [name for name, _ in documents],
    }
    text = json.dumps(header, indent=1) + "\n"
    write_atomic(header_path(path), lambda handle: handle.writelines([text.encode()]))
    return open_tokens(path)


def open_tokens(path: Path) -> Tokens:
    """Map a token file and check it against its header.

    Raises:
        DataError: missing, torn, changed, or of another format.
    """
    header = _read_header(header_path(path))
    dtype = np.dtype(header["dtype"])
    try:
        size = path.stat().st_size
        if size != header["tokens"] * dtype.itemsize:
            raise _damaged(path, f"{size} bytes, the header says {header['tokens']} ids")
        empty = size == 0
        ids = np.empty(0, dtype) if empty else np.memmap(path, dtype=dtype, mode="r")
    except OSError as error:
        raise _damaged(path, error.strerror or "unreadable") from None
    if hashlib.sha256(ids.data).hexdigest() != header["sha256"]:
        raise _damaged(path, "the ids do not match the header's hash")
    return Tokens(
        ids, tuple(header["documents"]), header["vocabulary"], header["sha256"], header["end"]
    )


HEADER_TYPES: dict[str, type] = {
    "dtype": str,
    "tokens": int,
    "vocabulary": int,
    "end": int,
    "sha256": str,
    "documents": list,
}


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_bytes())
    except OSError as error:
        raise _damaged(path, error.strerror or "unreadable") from None
    except ValueError:
        raise _damaged(path, "not JSON") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _damaged(path, f"not a header of format {FORMAT}")
    for key, kind in HEADER_TYPES.items():
        if not isinstance(header.get(key), kind):
            raise _damaged(path, f"{key!r} is missing or of the wrong type")
    if header["dtype"] not in ("<u2", "<u4"):
        raise _damaged(path, f"ids of type {header['dtype']!r}")
    return header


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        "a token file is damaged",
        where=str(path),
        why=why,
        next_step="delete it: it is derived from the text and will be made again",
    )
