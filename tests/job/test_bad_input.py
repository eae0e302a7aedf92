"""Generated bad configurations: one clear message each, and nothing but HolmesErrors."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holmes.errors import HolmesError
from holmes.hardware.read import read_site
from holmes.job.resolve import resolve_job

SITE: dict[str, Any] = {
    "name": "two",
    "clusters": [
        {
            "name": "ib",
            "nodes": 2,
            "device": {"kind": "cpu-core", "count": 1, "speed": 0.5},
            "nics": [
                {"kind": "infiniband", "gbit_s": 200.0, "count": 4, "latency_us": 2.0},
                {"kind": "ethernet", "gbit_s": 25.0},
            ],
        },
        {
            "name": "roce",
            "nodes": [
                {
                    "count": 2,
                    "device": {"kind": "cpu-core"},
                    "nics": [{"kind": "ethernet", "gbit_s": 25.0}],
                    "memory_gb": 64.0,
                }
            ],
        },
    ],
    "links": [{"between": ["ib", "roce"], "kind": "ethernet", "gbit_s": 25.0, "latency_us": 50.0}],
    "rehearsal": {"scale": 0.001},
}
JOB: dict[str, Any] = {
    "name": "job",
    "site": SITE,
    "model": {"preset": "gpt-1m", "layers": 4},
    "data": {"source": "shakespeare", "vocabulary": 512, "validation_fraction": 0.1, "seed": 1},
    "batch": {"global": 16, "micro": 2},
    "optimizer": {"lr": 0.001, "min_lr": 0.0001, "betas": [0.9, 0.95], "eps": 1e-8, "clip": 1.0},
    "train": {"steps": 20, "seed": 3, "precision": "fp32", "deadline_seconds": 30.0},
    "parallel": {"pipeline": 2, "data": 2, "schedule": "1f1b", "rank_map": [0, 1, 2, 3]},
    "rehearsal": {"devices": "virtual", "forward_ms": 1.0, "backward_ms": 2.0},
}
Path_ = tuple[str | int, ...]


def places(values: Any, here: Path_ = ()) -> Iterator[Path_]:
    """Every key path of a document, the root left out."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for part, below in items:
        yield (*here, part)
        if isinstance(below, dict | list):
            yield from places(below, (*here, part))


def at(values: Any, path: Path_) -> Any:
    for part in path:
        values = values[part]
    return values


FREE = {("model", "layers")}
"""Sizes of the model are checked by its family, not by the job."""
PLACES = sorted(places(JOB), key=str)
NUMBERS = [
    path
    for path in PLACES
    if isinstance(at(JOB, path), int | float) and path not in FREE and path[:1] != ("rank_map",)
]
NAMED = [path for path in PLACES if isinstance(path[-1], str) and path[0] != "model"]
NO_NUMBER: list[Any] = [float("nan"), float("inf"), -1, -0.5, 1e308, 10**30, "many", [], {}, True]
ANYTHING: list[Any] = [*NO_NUMBER, None, "", 0, 1, "x" * 5000, [[[]]], {"a": {"b": 1}}, "ethernet"]
ENOUGH = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def changed(path: Path_, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(JOB)
    at(document, path[:-1])[path[-1]] = value
    return document


def outcome(path: Path, raw: bytes, words: list[str] | None = None) -> HolmesError | None:
    """The error of a job file with these bytes, or None; anything else fails the test."""
    path.write_bytes(raw)
    try:
        resolve_job(path, words or [])
    except HolmesError as error:
        assert error.exit_code in (65, 78)
        assert error.what
        assert error.where
        assert path.name in error.where or "override" in error.where
        assert len(error.text()) < 2500
        assert error.text().replace("\n", "").isprintable()
        return error
    return None


def dumped(document: Any) -> bytes:
    return yaml.safe_dump(document, sort_keys=False).encode()


def test_the_unchanged_job_is_good(tmp_path: Path) -> None:
    assert outcome(tmp_path / "j.yaml", dumped(JOB)) is None


@ENOUGH
@given(path=st.sampled_from(NUMBERS), value=st.sampled_from(NO_NUMBER))
def test_no_number(tmp_path: Path, path: Path_, value: Any) -> None:
    error = outcome(tmp_path / "j.yaml", dumped(changed(path, value)))
    assert error is not None
    assert "j.yaml:" in (error.where or "")


@ENOUGH
@given(
    path=st.sampled_from(NAMED),
    spoil=st.sampled_from([lambda key: key + "x", lambda key: "_" + key, str.upper, str.title]),
)
def test_misspelt_keys(tmp_path: Path, path: Path_, spoil: Any) -> None:
    document = copy.deepcopy(JOB)
    section = at(document, path[:-1])
    key = spoil(path[-1])
    section[key] = section.pop(path[-1])
    error = outcome(tmp_path / "j.yaml", dumped(document))
    assert error is not None
    assert key in error.text() or str(path[-1]) in error.text()


@ENOUGH
@given(path=st.sampled_from(PLACES), value=st.sampled_from(ANYTHING), word=st.booleans())
def test_any_value_anywhere(tmp_path: Path, path: Path_, value: Any, word: bool) -> None:
    if word:
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
        text = text.removesuffix("\n").removesuffix("\n...")
        outcome(tmp_path / "j.yaml", dumped(JOB), [".".join(map(str, path)) + "=" + text])
    else:
        outcome(tmp_path / "j.yaml", dumped(changed(path, value)))


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
LINES = dumped(JOB).splitlines(keepends=True)


@st.composite
def spoilt_text(draw: st.DrawFn) -> bytes:
    """The good file with one thing done to its bytes that no reader should accept."""
    position = draw(st.integers(0, len(LINES)))
    spoilt = draw(
        st.sampled_from(
            [
                b"\tname: x\n",
                b"a\0b: 1\n",
                b"\xff\xfe\n",
                b"name: again\nname: again\n",
                BOMB.encode(),
                b"deep: " + b"[" * 3000 + b"]" * 3000 + b"\n",
                b"deep: " + b"{a: " * 60 + b"1" + b"}" * 60 + b"\n",
                b"tagged: !!python/name:os.system x\n",
                b"---\nsecond: document\n",
                b"%BAD directive\n",
                b"open: [1, 2\n",
                b"open: 'text\n",
                b": : :\n",
                b"<<: {a: 1}\n",
                b"\x7fELF\x02\x01\x01\0\0\0",
                b"words only\n",
            ]
        )
    )
    mark = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    return mark + b"".join(LINES[:position]) + spoilt + b"".join(LINES[position:])


@ENOUGH
@given(raw=spoilt_text())
def test_spoilt_text(tmp_path: Path, raw: bytes) -> None:
    assert outcome(tmp_path / "j.yaml", raw) is not None


@ENOUGH
@given(raw=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_arbitrary_bytes(tmp_path: Path, raw: bytes) -> None:
    assert outcome(tmp_path / "j.yaml", raw) is not None
    site = tmp_path / "s.yaml"
    site.write_bytes(raw)
    with pytest.raises(HolmesError) as caught:
        read_site(site)
    assert caught.value.exit_code == 78


@ENOUGH
@given(cut=st.integers(0, sum(map(len, LINES))))
def test_truncated_files(tmp_path: Path, cut: int) -> None:
    outcome(tmp_path / "j.yaml", b"".join(LINES)[:cut])


@ENOUGH
@given(word=st.text(max_size=60))
def test_arbitrary_overrides(tmp_path: Path, word: str) -> None:
    outcome(tmp_path / "j.yaml", dumped(JOB), [word])
