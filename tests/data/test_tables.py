"""Tables and saved data sets: what is read, and one clear message for what is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from holmes.data.sources import read_corpus
from holmes.errors import DataError

TEXTS = ["first text", "second\ntext", "", "third", "first text"]


def table(texts: list[Any] | None = None, name: str = "text") -> pa.Table:
    return pa.table({"id": range(len(texts or TEXTS)), name: texts or TEXTS})


def write_stream(path: Path, what: pa.Table) -> None:
    """As the `datasets` library saves it."""
    with ipc.new_stream(str(path), what.schema) as writer:
        writer.write_table(what, max_chunksize=2)


def write_file(path: Path, what: pa.Table) -> None:
    with ipc.new_file(str(path), what.schema) as writer:
        writer.write_table(what, max_chunksize=2)


def write_parquet(path: Path, what: pa.Table) -> None:
    parquet.write_table(what, path, row_group_size=2)


def saved(folder: Path, split: str | None = None) -> Path:
    """A folder as `save_to_disk` makes it, with a cache file that is none of its data."""
    place = folder / split if split else folder
    place.mkdir(parents=True)
    write_stream(place / "data-00000-of-00001.arrow", table())
    write_stream(place / "cache-1234.arrow", table(["derived"]))
    names = [{"filename": "data-00000-of-00001.arrow"}]
    (place / "state.json").write_text(json.dumps({"_data_files": names, "_format_type": None}))
    (place / "dataset_info.json").write_text("{}")
    if split:
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": [split, "test"]}))
    return folder


@pytest.mark.parametrize(
    ("name", "write"),
    [("x.parquet", write_parquet), ("x.arrow", write_stream), ("x.arrow", write_file)],
)
def test_rows_of_a_column_are_documents(
    tmp_path: Path, name: str, write: Callable[[Path, pa.Table], None]
) -> None:
    write(tmp_path / name, table(name="content"))
    corpus = read_corpus(tmp_path, "content")
    for _ in range(2):  # as often as one likes
        assert [(d.name, d.text) for d in corpus.documents] == [
            (f"{name}:0", "first text"),
            (f"{name}:1", "second\ntext"),
            (f"{name}:3", "third"),
        ]


@pytest.mark.parametrize("split", [None, "train"])
def test_a_saved_data_set_is_what_its_state_names(tmp_path: Path, split: str | None) -> None:
    corpus = read_corpus(saved(tmp_path / "set", split))
    assert [d.text for d in corpus.documents] == ["first text", "second\ntext", "third"]


def test_large_strings_and_a_field_of_lines(tmp_path: Path) -> None:
    large = pa.table({"text": pa.array(["a", "b"], pa.large_string())})
    write_parquet(tmp_path / "x.parquet", large)
    assert [d.text for d in read_corpus(tmp_path / "x.parquet").documents] == ["a", "b"]
    (tmp_path / "y.jsonl").write_text('{"body": "c", "text": 3}\n')
    assert [d.text for d in read_corpus(tmp_path / "y.jsonl", "body").documents] == ["c"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


BROKEN: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a missing column": (
        lambda f: write_parquet(f / "x.parquet", table(name="content")),
        "x.parquet",
        "no column 'text'",
    ),
    "a column of numbers": (
        lambda f: write_parquet(f / "x.parquet", pa.table({"text": [1, 2]})),
        "x.parquet",
        "type int64",
    ),
    "a row without text": (
        lambda f: write_parquet(f / "x.parquet", table(["a", "b", None])),
        "x.parquet, row 2",
        "is empty here",
    ),
    "a parquet file cut off": (
        lambda f: (write_parquet(f / "x.parquet", table()), _truncate(f / "x.parquet")),
        "x.parquet",
        "cannot be read",
    ),
    "text that calls itself parquet": (
        lambda f: (f / "x.parquet").write_text("no table"),
        "x.parquet",
        "cannot be read",
    ),
    "an empty parquet file": (
        lambda f: (f / "x.parquet").write_bytes(b""),
        "x.parquet",
        "cannot be read",
    ),
    "an arrow stream cut off": (
        lambda f: (write_stream(f / "x.arrow", table()), _truncate(f / "x.arrow")),
        "x.arrow",
        "cannot be read",
    ),
    "an arrow file cut off": (
        lambda f: (write_file(f / "x.arrow", table()), _truncate(f / "x.arrow")),
        "x.arrow",
        "cannot be read",
    ),
    "an empty arrow file": (
        lambda f: (f / "x.arrow").write_bytes(b""),
        "x.arrow",
        "cannot be read",
    ),
    "an arrow file without the column": (
        lambda f: write_stream(f / "x.arrow", table(name="texts")),
        "x.arrow",
        "no column 'text'",
    ),
    "a saved data set that lacks a file": (
        lambda f: (saved(f / "s") / "data-00000-of-00001.arrow").unlink(),
        "data-00000-of-00001.arrow",
        "names it",
    ),
    "a saved data set with a torn state": (
        lambda f: (saved(f / "s") / "state.json").write_text('{"_data_files": ['),
        "state.json",
        "cannot be read",
    ),
    "a saved data set that names nothing": (
        lambda f: (saved(f / "s") / "state.json").write_text("{}"),
        "state.json",
        "does not name its files",
    ),
    "a saved data set without the split": (
        lambda f: saved(f / "s", "validation"),
        "dataset_dict.json",
        "no split `train`",
    ),
    "a table of no rows": (
        lambda f: write_parquet(f / "x.parquet", table(["", " "])),
        "",
        "the text source is empty",
    ),
    "a line beyond the limit": (
        lambda f: (f / "x.jsonl").write_text('{"text": "a"}\n' + '{"text": "' + "b" * 5000 + '"}'),
        "x.jsonl:2",
        "data.document_mb",
    ),
    "a file beyond the limit": (
        lambda f: (f / "x.txt").write_text("b" * 5000),
        "x.txt",
        "data.document_mb",
    ),
    "a row beyond the limit": (
        lambda f: write_parquet(f / "x.parquet", table(["a", "b" * 5000])),
        "x.parquet, row 1",
        "data.document_mb",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_data_is_one_message_with_its_place(tmp_path: Path, kind: str) -> None:
    make, where, says = BROKEN[kind]
    make(tmp_path)
    source = tmp_path / "s" if (tmp_path / "s").is_dir() else tmp_path
    with pytest.raises(DataError) as caught:
        read_corpus(source, limit=4096)
    assert caught.value.exit_code == 65
    assert says in str(caught.value)
    assert str(caught.value.where).endswith(where)


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "x.parquet", table())

    def missing(*_: object) -> Any:
        raise ModuleNotFoundError("pyarrow")

    monkeypatch.setattr("holmes.data.tables._columns", missing)
    with pytest.raises(DataError, match=r"holmes\[hf\]"):
        read_corpus(tmp_path)
