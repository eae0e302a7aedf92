"""`holmes validate` and `holmes calibrate` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holmes.cli import main as cli
from tests.accuracy.test_calibrate import run_folder
from tests.accuracy.test_tables import ROW, SITES, TABLES, table


def run(*words: str) -> int:
    return cli._run(list(words), debug=False)


def test_validate_prints_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path, ROW, ROW.replace(",0.5,", ",,"))
    assert run("validate", str(path), "--sites", str(SITES), "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["n"] == 1
    assert data["skipped"] == [{"row": 3, "reason": "no measured time"}]
    (row,) = data["rows"]
    assert row["low"] < row["seconds"] < row["high"] and row["source"] == "calibration default"
    assert run("validate", str(path), "--sites", str(SITES)) == 0
    assert "row 3 skipped: no measured time" in capsys.readouterr().out


def test_calibrate_writes_what_validate_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, made = table(tmp_path, ROW), tmp_path / "calibration.json"
    words = ("--sites", str(SITES), "--json")
    assert run("calibrate", str(path), "-o", str(made), *words) == 0
    assert json.loads(capsys.readouterr().out)["calibration"] == str(made)
    assert run("validate", str(path), "--calibration", str(made), *words) == 0
    assert json.loads(capsys.readouterr().out)["calibration"] == "table"


def test_a_trace_is_calibrated_without_sites(tmp_path: Path) -> None:
    folder, made = run_folder(tmp_path), tmp_path / "own.json"
    assert run("calibrate", str(folder), "-o", str(made)) == 0
    assert json.loads(made.read_text())["blocks"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("validate", "absent.csv", "--sites", str(SITES)), 65, "cannot read the table"),
        (("validate", "absent.csv"), 2, "--sites"),
        (
            ("validate", str(TABLES / "hardware.csv"), "--sites", str(SITES)),
            65,
            "no column 'model'",
        ),
        (("calibrate", str(TABLES / "holmes_four_nodes.csv")), 2, "needs the sites"),
        (("calibrate", "absent", "--sites", str(SITES)), 2, "no effect on a trace"),
        (("calibrate", "absent"), 65, "absent"),
    ],
)
def test_bad_input_has_its_code(
    words: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == code
    assert message in capsys.readouterr().err
