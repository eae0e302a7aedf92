"""Predicted against measured on run folders: sums, pictures, words, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from holmes.errors import DataError
from holmes.report.causes import Cause, Comparison
from holmes.report.compare import compare_run, compare_runs
from holmes.report.parts.because import because
from holmes.report.parts.waterfall import waterfall, why_slower
from holmes.report.run_data import read_run
from holmes.report.waterfall_table import steps_of, waterfall_table, window
from tests.report import fixtures

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for style in ("holmes", "megatron"):
        fixtures.run_folder(folder / style, fixtures.plan(style))
    return folder


def test_a_run_is_explained_to_the_nanosecond(runs: Path) -> None:
    run = read_run(runs / "holmes")
    told = compare_run(run)
    assert told.before == max(span.stop for span in run.predicted.spans)
    step = next(m for m in run.metrics if m.step == run.typical_step)
    assert told.after == round(step.step_seconds * 1e9)
    assert sum(cause.nanoseconds for cause in told.causes) == told.nanoseconds > 0
    assert any("layer" in c.where for c in told.causes if c.cause == "compute")
    assert any(
        c.where.startswith(("ethernet", "infiniband", "roce"))
        for c in told.causes
        if c.cause == "transfer"
    )


def test_any_traced_step_can_be_asked_for(runs: Path) -> None:
    run = read_run(runs / "holmes")
    lengths = {compare_run(run, step).after for step in (17, 18, 19, 20)}
    assert len(lengths) == 4
    with pytest.raises(DataError, match="no trace of step 3"):
        compare_run(run, 3)


def test_two_runs_of_one_plan_and_of_two(runs: Path) -> None:
    ours, theirs = read_run(runs / "holmes"), read_run(runs / "megatron")
    for one, other in ((ours, ours), (ours, theirs), (theirs, ours)):
        told = compare_runs(one, other)
        assert sum(cause.nanoseconds for cause in told.causes) == told.nanoseconds
    assert compare_runs(ours, ours).nanoseconds == 0
    assert "different plans" in compare_runs(ours, theirs).notes[0]


def test_runs_that_lack_a_file_are_refused(runs: Path, tmp_path: Path) -> None:
    for lost, said in (("plan.json", "no plan.json"), ("trace.jsonl", "no trace")):
        folder = tmp_path / lost.split(".")[0]
        fixtures.run_folder(folder, fixtures.plan())
        (folder / lost).unlink()
        with pytest.raises(DataError, match=said):
            compare_run(read_run(folder))


def test_small_causes_are_summed_and_the_picture_ends_where_it_should() -> None:
    made = [Cause("compute", f"block {i}", 1, 0, 1000 - 90 * i) for i in range(12)]
    total = sum(cause.nanoseconds for cause in made)
    told = Comparison("a", "b", 50_000, 50_000 + total, tuple(made))
    rows, ends = steps_of(told, 4)
    assert [row.cause for row in rows] == ["compute"] * 4 + ["others"]
    assert ends[-1] == told.after
    low, high = window(told, ends)
    assert 0 < low < told.before and high > told.after


def test_the_table_and_the_picture_name_every_large_cause(runs: Path) -> None:
    told = compare_run(read_run(runs / "holmes"))
    console = Console(width=100, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(waterfall_table(told))
    worst = max(told.causes, key=lambda cause: cause.nanoseconds)
    assert worst.cause in captured.get() and "difference +" in captured.get()
    assert all(len(line) <= 100 for line in captured.get().splitlines())
    picture = waterfall(told, "holmes")
    assert worst.where in picture and f"c-{worst.cause}" in picture


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fixtures.run_folder(folder, fixtures.plan())
    plan = json.loads((folder / "plan.json").read_text())
    for block in plan["workload"]["blocks"]:
        block["name"] = EVIL
    (folder / "plan.json").write_text(json.dumps(plan))
    markup = why_slower([read_run(folder, EVIL)])
    assert markup is not None and EVIL not in markup and "&lt;script&gt;" in markup


def test_a_trace_that_does_not_fit_its_plan_is_said_on_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fixtures.run_folder(folder, fixtures.plan())
    plan = json.loads((folder / "plan.json").read_text())
    plan["schedule"]["digest"] = "0" * 16
    (folder / "plan.json").write_text(json.dumps(plan))
    markup = why_slower([read_run(folder)])
    assert markup is not None and "digest does not match" in markup


def test_the_reason_is_one_sentence() -> None:
    ours, theirs = fixtures.plan("holmes"), fixtures.plan("megatron")
    told = because(ours, theirs)
    assert told is not None
    assert told.startswith("Because its replicas exchange gradients over InfiniBand and RoCE")
    assert "instead of Ethernet" in told and told.count(".") <= 2
    assert because(ours, ours) is None
    assert because(replace(ours, overlap=True), replace(ours, overlap=False)) == (
        "Because the exchange runs under the backward instead of after it."
    )
