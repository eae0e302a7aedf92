"""`holmes simulate` and `holmes compare` as a user meets them."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holmes.cli import main as cli
from holmes.events.span import Span
from holmes.events.trace import append_trace

PLAN = ("--site", "demo", "--model", "gpt-5m", "--global-batch", "8", "--micro-batch", "1")
FIXED = ("parallel={pipeline: 2, data: 2}",)


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    with redirect_stdout(io.StringIO()):
        assert cli._run(["plan", *FIXED, *PLAN, "-o", str(path), "--json"], debug=True) == 0
    return path


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli._run([*words, "--json"], debug=True) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli._run(list(words), debug=False)
    return code, capsys.readouterr().err


def test_a_plan_is_simulated_as_it_predicted(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, page = tmp_path / "t.json", tmp_path / "t.html"
    told = answer(capsys, "simulate", str(plan_file), "--trace", str(trace), "--html", str(page))
    said = json.loads(plan_file.read_text())["predicted"]
    assert told["step_seconds"] == pytest.approx(said["step_seconds"], rel=1e-6)
    for kind, ways in told["network_bytes"].items():
        assert ways["sent"] == ways["received"]
        assert ways["sent"] == pytest.approx(said["bytes_per_step"][kind], rel=0.01)
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) > 100
    text = page.read_text()
    assert "Simulated, not measured" in text and "http:" not in text and "https:" not in text


def test_a_faster_network_shortens_the_step_and_says_where(
    plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = answer(
        capsys,
        "simulate",
        str(plan_file),
        "--what-if",
        "clusters.ib.nics.ethernet.gbit_s=0.1",
        "--what-if",
        "clusters.roce.nics.ethernet.gbit_s=0.1",
    )
    change = told["comparison"]
    assert told["cases"]["what if"]["step_seconds"] > told["step_seconds"]
    assert sum(cause["nanoseconds"] for cause in change["causes"]) == change["nanoseconds"]
    worst = max(change["causes"], key=lambda cause: cause["nanoseconds"])
    assert worst["cause"] == "transfer" and worst["where"].startswith("ethernet")
    again = told["cases"]["what if, planned again"]["step_seconds"]
    assert again <= told["cases"]["what if"]["step_seconds"] * 1.01


def test_a_failed_node_is_planned_around(
    plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_number = answer(capsys, "simulate", str(plan_file), "--fail", "node:3")
    (again,) = (case for name, case in by_number["cases"].items() if name != "as planned")
    assert again["devices"] == 3 and by_number["devices"] == 4
    assert again["step_seconds"] > by_number["step_seconds"]
    by_name = answer(capsys, "simulate", str(plan_file), "--fail", "node:roce-1")
    assert by_name["cases"]["without node:roce-1, planned again"] == again


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--what-if", "clusters.rose.nodes=1"), 78, "did you mean"),
        (("--what-if", "train.steps=3"), 78, "belongs to the job"),
        (("--what-if", "nonsense"), 78, "not an override"),
        (("--fail", "node:9"), 78, "nodes 0 to 3"),
        (("--fail", "rack:1"), 78, "node:3"),
        (("--what-if", "clusters.ib.nics.infiniband.gbit_s=-1"), 78, "gbit_s"),
    ],
)
def test_bad_questions_are_refused(
    plan_file: Path,
    words: tuple[str, ...],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, text = refusal(capsys, "simulate", str(plan_file), *words)
    assert found == code and said in text and "Traceback" not in text


def test_missing_and_foreign_files_are_refused(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, "simulate", str(tmp_path / "no.json"))[0] == 65
    assert refusal(capsys, "compare", str(tmp_path / "no-run"))[0] == 65
    assert refusal(capsys, "compare", str(plan_file))[0] == 2
    empty = tmp_path / "trace.jsonl"
    empty.write_text("")
    code, text = refusal(capsys, "compare", str(plan_file), str(empty))
    assert code == 65 and "no spans" in text
    append_trace(empty, [Span(10**6, 0, 0, "compute", "forward", 0, 0, 0, 5)])
    code, text = refusal(capsys, "compare", str(plan_file), str(empty))
    assert code == 65 and "different runs" in text


def test_a_slow_trace_is_explained(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ends the step takes 50 ms longer than simulated."""
    from holmes.api import rehearsed
    from holmes.plan.codec import read_plan
    from holmes.report.study import nearest_case

    spans = nearest_case(read_plan(plan_file), rehearsed).simulation.timeline.spans
    last = max(spans, key=lambda span: span.stop)
    late = 50_000_000
    slow = [replace(s, stop=s.stop + late) if s.id == last.id else s for s in spans]
    trace, page = tmp_path / "trace.jsonl", tmp_path / "why.html"
    append_trace(trace, slow)
    told = answer(capsys, "compare", str(plan_file), str(trace), "--html", str(page))
    assert told["nanoseconds"] == late == sum(c["nanoseconds"] for c in told["causes"])
    assert "Why the two steps differ" in page.read_text()
    assert cli._run(["compare", str(plan_file), str(trace)], debug=True) == 0
    assert "difference +50.0 ms" in capsys.readouterr().out
