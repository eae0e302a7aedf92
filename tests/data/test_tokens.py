"""Tokenizer, token files, cache and split."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holmes.data.cache import default_cache, locked
from holmes.data.prepare import prepare, split
from holmes.data.sources import Corpus, Document
from holmes.data.tokenizer import TextTokenizer, load_or_train
from holmes.data.tokens import header_path, open_tokens, write_tokens
from holmes.errors import ConfigError, DataError, WriteError

TEXT = "the cat sat on the mat, and the dog sat on the log.\n" * 20
CORPUS = Corpus("test", (Document("a", TEXT), Document("b", "naïve café, 東京\r\n\t")))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return load_or_train(CORPUS, 300, tmp_path_factory.mktemp("cache"))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text())
def test_every_text_goes_round(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocabulary for i in ids)
    assert tokenizer.end_of_text not in ids


def test_the_mark_spelled_out_in_a_text_is_text(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>b"


def test_training_is_reproducible_and_cached(tmp_path: Path) -> None:
    first = load_or_train(CORPUS, 300, tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    os.utime(file, (1, 1))
    again = load_or_train(CORPUS, 300, tmp_path)
    assert file.stat().st_mtime == 1  # taken from the cache
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    load_or_train(CORPUS, 300, elsewhere)
    assert (elsewhere / file.name).read_bytes() == content
    assert first.encode("the cat") == again.encode("the cat")
    assert again.encode("<|endoftext|>") != [again.end_of_text]
    file.write_bytes(content[:-40])  # damaged: trained again
    load_or_train(CORPUS, 300, tmp_path)
    assert file.read_bytes() == content


@pytest.mark.parametrize("vocabulary", [0, -5, 256, 10**9])
def test_an_impossible_vocabulary_is_refused(tmp_path: Path, vocabulary: int) -> None:
    with pytest.raises(ConfigError, match="vocabulary"):
        load_or_train(CORPUS, vocabulary, tmp_path)


@pytest.mark.parametrize(("vocabulary", "dtype"), [(300, np.uint16), (2**16 + 1, np.uint32)])
def test_token_files_go_round(tmp_path: Path, vocabulary: int, dtype: type) -> None:
    path = tmp_path / "x.bin"
    ids = [0, 5, vocabulary - 1]
    written = write_tokens(path, [("a", ids), ("b", [7])], vocabulary)
    read = open_tokens(path)
    assert read.ids.tolist() == [*ids, 7] and read.ids.dtype == dtype
    assert isinstance(read.ids, np.memmap)
    assert (read.documents, read.digest) == (("a", "b"), written.digest)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin", "x.json"]
    assert len(write_tokens(tmp_path / "empty.bin", [], 300)) == 0


def test_damaged_token_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_tokens(path, [("a", [1, 2, 3])], 300)
    good, header = path.read_bytes(), json.loads(header_path(path).read_text())
    for data in (good[:-1], good + b"\0\0", b"", bytes([good[0] ^ 1]) + good[1:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"x\.bin"):
            open_tokens(path)
    path.write_bytes(good)
    for change in ({"format": 1}, {"dtype": "<f4"}, {"tokens": "3"}, {"documents": None}):
        header_path(path).write_text(json.dumps({**header, **change}))
        with pytest.raises(DataError, match=r"x\.json"):
            open_tokens(path)
    header_path(path).write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        open_tokens(path)
    header_path(path).unlink()
    with pytest.raises(DataError, match="No such file"):
        open_tokens(path)


def sized(*sizes: int) -> list[tuple[str, list[int]]]:
    return [(f"document {i}", [i] * size) for i, size in enumerate(sizes)]


@given(
    sizes=st.lists(st.integers(1, 500), min_size=1, max_size=30),
    fraction=st.floats(0, 0.5),
)
def test_a_split_keeps_every_token_once(sizes: list[int], fraction: float) -> None:
    documents = sized(*sizes)
    train, held = split(documents, fraction)  # type: ignore[arg-type]
    assert sorted(i for _, ids in [*train, *held] for i in ids) == sorted(
        i for _, ids in documents for i in ids
    )
    assert train
    if len(documents) > 1:
        assert bool(held) == (fraction > 0)
        assert not {name for name, _ in train} & {name for name, _ in held}


def test_a_split_is_near_the_fraction_and_does_not_depend_on_the_order() -> None:
    documents = sized(*range(40, 100))
    _, held = split(documents, 0.1)  # type: ignore[arg-type]
    share = sum(len(ids) for _, ids in held) / sum(range(40, 100))
    assert share == pytest.approx(0.1, abs=0.02)
    _, backwards = split(documents[::-1], 0.1)  # type: ignore[arg-type]
    assert {n for n, _ in held} == {n for n, _ in backwards}


def test_one_document_gives_up_its_tail() -> None:
    train, held = split([("a", list(range(10)))], 0.2)
    assert (train, held) == ([("a", list(range(8)))], [("a", [8, 9])])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "text"
    source.mkdir()
    for i in range(6):
        (source / f"{i}.txt").write_text(f"{i} {TEXT}")
    return source


def test_prepare_caches_and_mends(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    said: list[str] = []
    first = prepare(folder, 300, 0.2, cache, said.append)
    assert any("encoding" in line for line in said)
    assert len(first.validation) > 0
    assert first.tokenizer.decode(first.train.ids.tolist()).startswith("0 the cat")
    assert (first.train.ids == first.tokenizer.end_of_text).sum() == len(first.train.documents)
    said.clear()
    again = prepare(folder, 300, 0.2, cache, said.append)
    assert not any("encoding" in line for line in said)
    assert again.digest == first.digest
    damaged = next(cache.glob("*-train.bin"))
    damaged.write_bytes(b"")
    assert prepare(folder, 300, 0.2, cache).digest == first.digest
    assert len(prepare(folder, 300, 0.0, cache).validation) == 0
    assert prepare(folder, 300, 0.4, cache).digest != first.digest


def test_two_processes_prepare_the_same(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from holmes.data.prepare import prepare; "
        "print(prepare(sys.argv[1], 300, 0.2, Path(sys.argv[2])).digest)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "cache")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [child.communicate(timeout=60)[0] for child in children]
    assert said[0] == said[1] and said[0].strip()
    assert not list((tmp_path / "cache").glob("*.partial"))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_an_impossible_fraction_is_refused(folder: Path, tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ConfigError, match="held-out"):
        prepare(folder, 300, fraction, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"data\.cache"), locked(tmp_path / "file" / "cache"):
        pass


def test_the_default_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/holmes")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "holmes"
