"""Documents of .txt files (one each) and .jsonl files (one a line, read as a stream)."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

from holmes.data.documents import Document, checked, too_long
from holmes.errors import DataError


def read_text(path: Path, limit: int) -> str:
    """Text of a file, a byte order mark dropped and line ends made ``\\n``.

    Raises:
        DataError: unreadable, too long, or not UTF-8 (with the byte offset).
    """
    try:
        if path.stat().st_size > limit:
            raise too_long(str(path), limit)
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    skipped = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    return _decode(data[skipped:], path, skipped).replace("\r\n", "\n")


def read_lines(path: Path, name: str, field: str, limit: int) -> Iterator[Document]:
    """The documents of a .jsonl file: of each line's object the string under ``field``.

    Raises:
        DataError: a bad line, with its number.
    """
    try:
        with path.open("rb") as file:
            offset, number = 0, 0
            while line := file.readline(limit + 1):
                number += 1
                where = f"{path}:{number}"
                if len(line) > limit:
                    raise too_long(where, limit)
                skipped = 3 if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
                text = _decode(line[skipped:], path, offset + skipped)
                offset += len(line)
                if text.strip():
                    yield Document(f"{name}:{number}", _document(text, field, where))
    except OSError as error:
        raise _unreadable(path, error) from None


def _document(line: str, field: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError("a line is not JSON", where=where, why=reason[:200]) from None
    text = value.get(field) if isinstance(value, dict) else None
    return checked(text, where, f'each line is an object with a string under "{field}"')


def _decode(data: bytes, path: Path, offset: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            "a text is not UTF-8",
            where=f"{path}, byte {error.start + offset}",
            why=f"{error.reason} (0x{error.object[error.start]:02x})",
            next_step="convert the file to UTF-8",
        ) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot read a text: {error.strerror}", where=str(path))
