from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holmes.api.bench import benchmarks, run_benchmark
from holmes.cli.main import app
from holmes.errors import ConfigError, HolmesError, UnavailableError

PROGRAM = '''"""What it measures.

More.
"""
import json, sys
from pathlib import Path
record = Path(__file__).parent / "records" / "small.json"
if __name__ == "__main__":
    if sys.argv[1:] == ["--bad"]:
        sys.exit(3)
    record.write_text(json.dumps({"headline": {"figure": "f", "median": 2}, "got": sys.argv[1:]}))
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "benchmarks"
    (made / "records").mkdir(parents=True)
    (made / "small.py").write_text(PROGRAM)
    (made / "part.py").write_text("record = 1\n")
    return made


def test_a_benchmark_is_listed_run_and_read(folder: Path) -> None:
    (one,) = benchmarks(folder)
    assert (one.name, one.about, one.headline) == ("small", "What it measures.", None)
    assert run_benchmark("small", ["--only", "x"], folder)["got"] == ["--only", "x"]
    assert benchmarks(folder)[0].headline == "f: 2"
    record = folder / "records" / "small.json"
    record.write_text(json.dumps({"date": "2026-01-02"}))
    assert benchmarks(folder)[0].headline == "several figures, of 2026-01-02"
    record.write_text("not a record")
    assert benchmarks(folder)[0].headline is None


def test_what_cannot_be_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="small"):
        run_benchmark("smal", [], folder)
    with pytest.raises(HolmesError, match="exit code 3"):
        run_benchmark("small", ["--bad"], folder)
    with pytest.raises(UnavailableError):
        benchmarks(tmp_path / "absent")


def test_those_of_the_checkout_are_listed() -> None:
    result = CliRunner().invoke(app, ["bench", "--json"])
    names = {one["name"] for one in json.loads(result.stdout)["benchmarks"]}
    assert {"reliability", "recovery", "checkpoint"} <= names
