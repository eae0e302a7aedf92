"""Records are complete, and the tables in README and docs are what the records render to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import record
import render
import tables

NAMES = sorted(render.RENDERERS)
WITH_RECORD = [name for name in NAMES if record.read(name) is not None]
"""A benchmark that nobody has run yet says so in its table."""


def _record(name: str) -> dict[str, Any]:
    data = record.read(name)
    assert data is not None, f"benchmarks/records/{name}.json is missing"
    return data


@pytest.mark.parametrize("name", WITH_RECORD)
def test_record_says_what_was_measured_where_and_when(name: str) -> None:
    data = _record(name)
    assert data["name"] == name
    assert set(data["headline"]) == {"figure", "baseline", "median", "q1", "q3", "pairs"}
    assert data["headline"]["q1"] <= data["headline"]["median"] <= data["headline"]["q3"]
    assert data["headline"]["pairs"] >= 3
    assert {"sizes", "machine", "commit", "date", "drift", "verdict"} <= set(data)
    assert "dirty" not in data["commit"]


def test_every_arm_ran_over_shaped_links() -> None:
    for name in WITH_RECORD:
        for arm in _arms(_record(name)):
            assert arm["links"] == "shaped"
            assert len(arm["seconds"]) >= 2


@pytest.mark.parametrize("path", tables.FILES, ids=lambda path: path.name)
def test_tables_are_those_of_the_records(path: Path) -> None:
    text = path.read_text()
    assert tables.filled(text, tables.FILES[path]) == text, "run `python benchmarks/tables.py`"
    shown = re.findall(r"<!-- table:(\w+) -->", text)
    assert len(set(shown)) == len(shown) and set(shown) <= set(NAMES)


def test_every_record_has_its_table_in_the_docs() -> None:
    text = (tables.ROOT / "docs" / "benchmarks.md").read_text()
    assert sorted(re.findall(r"<!-- table:(\w+) -->", text)) == NAMES


@pytest.mark.parametrize("name", WITH_RECORD)
def test_an_unsteady_machine_is_named_in_the_table(name: str) -> None:
    data = _record(name)
    steady = {**data, "verdict": "measured"}
    unsteady = {**data, "verdict": "inconclusive"}
    assert "inconclusive" not in render.compact(steady)
    assert "inconclusive" in render.compact(unsteady)
    assert f"records/{name}.json" in render.full(steady)


def test_every_record_belongs_to_a_benchmark() -> None:
    scripts = {path.stem for path in record.RECORDS.parent.glob("*.py")}
    scripts |= {f"gpu_{path.stem}" for path in record.RECORDS.parent.glob("gpu/*.py")}
    assert {path.stem for path in record.RECORDS.glob("*.json")} <= scripts
    assert record.read("never measured") is None


def test_make_runs_every_benchmark() -> None:
    makefile = (tables.ROOT / "Makefile").read_text()
    listed = re.search(r"^BENCHMARKS := (.*)$", makefile, re.MULTILINE)
    assert listed is not None
    assert sorted(listed[1].split()) == NAMES
    folder = record.RECORDS.parent
    scripts = [path for path in folder.rglob("*.py") if "__main__" in path.read_text()]
    alone = {str(path.relative_to(folder)) for path in scripts if path.stem not in NAMES}
    others = {path.name: path.read_text() for path in scripts}
    alone -= {  # started by another benchmark, with another interpreter
        name for name in alone if any(name in text for own, text in others.items() if own != name)
    }
    assert {name for name in alone if f"benchmarks/{name}" not in makefile} == set()


@pytest.mark.parametrize(("after", "verdict"), [(1.05, "measured"), (1.2, "inconclusive")])
def test_drift_decides_the_verdict(
    monkeypatch: pytest.MonkeyPatch, after: float, verdict: str
) -> None:
    probes = iter([{"matmul": 1.0, "loopback": 1.0}, {"matmul": after, "loopback": 1.0}])
    monkeypatch.setattr(record, "speeds", lambda: next(probes))
    found = record.with_drift(lambda: {"figure": 1})
    assert found["verdict"] == verdict
    assert found["drift"] == {"matmul": pytest.approx(after - 1), "loopback": 0.0}


def test_arms_against_themselves_judge_paired_ratios() -> None:
    drift = {"matmul": 0.5}
    near = {"holmes": {"median": 1.0, "q1": 0.95, "q3": 1.04}}
    far = {**near, "other": {"median": 1.0, "q1": 0.85, "q3": 1.04}}
    assert record.verdict({"resolution": near}, drift) == "measured"
    assert record.verdict({"resolution": far}, drift) == "inconclusive"
    assert record.verdict({}, drift) == "inconclusive"


def test_paired_ratio_is_taken_within_rounds() -> None:
    found = record.paired_ratio([2.0, 6.0, 20.0], [1.0, 2.0, 5.0])
    assert (found["q1"], found["median"], found["q3"]) == (2.5, 3.0, 3.5)
    assert found["pairs"] == 3


def _arms(data: Any) -> list[dict[str, Any]]:
    """Every measured arm of a record, however deep."""
    if not isinstance(data, dict):
        return []
    if "seconds" in data:
        return [data]
    return [arm for value in data.values() for arm in _arms(value)]
