"""Watching a run: what is read while ranks write, the terminal view, Prometheus' format."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from holmes.errors import DataError, UnavailableError
from holmes.events.memory import append_memory, read_memory
from holmes.events.metrics import StepMetrics, append_metrics
from holmes.plan.codec import write_plan
from holmes.runtime.monitor.board import Board, Phase
from holmes.watch.prometheus import MetricsServer, exposition
from holmes.watch.snapshot import Snapshot, take
from holmes.watch.view import TICKS, sparkline, view
from tests.launch.plans import plan_for

Make = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Make:
    def make(steps: int = 3, wanted: int = 10, loss: float = 2.0) -> Path:
        folder = tmp_path / 'run "a"'
        folder.mkdir(exist_ok=True)
        plan = plan_for()
        write_plan(
            replace(plan, predicted=replace(plan.predicted, step_seconds=0.25)),
            folder / "plan.json",
        )
        (folder / "job.yaml").write_text(f"train: {{steps: {wanted}}}\n")
        lines = [
            StepMetrics(i, loss / (i + 1), 0.5, 100.0, 1.0, 1e-3, {"roce": 1000})
            for i in range(steps)
        ]
        append_metrics(folder / "metrics.jsonl", lines)
        for i in range(steps):
            append_memory(folder, 0, i, 5_000_000)
        board = Board(folder / "monitor" / "rank-0.board", 0, ["compute"])
        board.step(steps, Phase.INSIDE)
        return folder

    return make


def shown(shot: Snapshot) -> str:
    out = Console(file=StringIO(), width=100)
    out.print(view(shot))
    text: str = out.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_run_under_way(run: Make) -> None:
    shot = take(run())
    assert (shot.state, shot.step, shot.steps) == ("running", 3, 10)
    assert shot.behind == pytest.approx(1.0)
    assert shot.left_seconds == pytest.approx(3.5)
    assert shot.bytes_per_second == {"roce": pytest.approx(2000)}
    first, second = shot.ranks[:2]
    assert (first.step, first.phase, first.alive, first.memory_bytes) == (
        3,
        "computing",
        True,
        5_000_000,
    )
    assert (second.phase, second.memory_bytes) == ("no board", None)
    text = shown(shot)
    assert "running" in text and "+100%" in text and "roce-0" in text and TICKS[-1] in text
    assert json.loads(json.dumps(shot.to_dict()))["losses"][0] == [0, 2.0]


def test_states(run: Make) -> None:
    folder = run(steps=0)
    assert take(folder).state == "starting"
    run()
    assert take(folder, now=time.time() + 60).state == "stalled"
    (folder / "evidence.json").write_text("{}")
    (folder / "diagnosis.json").write_text('{"verdict": {"class": "rank-died"}}')
    shot = take(folder)
    assert (shot.state, shot.diagnosis) == ("failed", "rank-died")
    assert "rank-died" in shown(shot)
    run(steps=10)
    assert take(folder).state == "finished"


def test_a_loss_that_is_not_finite_is_shown_and_is_json(run: Make) -> None:
    shot = take(run(loss=float("nan")))
    assert "nan" in shown(shot) and "x" in sparkline([1.0, float("nan")])
    json.dumps(shot.to_dict(), allow_nan=False)
    assert 'holmes_loss{run="run \\"a\\""} NaN' in exposition(shot)


def test_sparklines_hold_every_value() -> None:
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == TICKS[0] * 2
    assert sparkline([float(i) for i in range(8)]) == TICKS
    assert len(sparkline([float(i) for i in range(1000)])) == 60


SAMPLE = re.compile(
    r'holmes_[a-z_]+\{[a-z]+="(?:[^"\\\n]|\\.)*"(?:,[a-z]+="(?:[^"\\\n]|\\.)*")*\} '
    r"(?:[-+0-9.e]+|NaN|[+-]Inf)"
)


def test_every_line_is_prometheus_text(run: Make) -> None:
    lines = exposition(take(run())).splitlines()
    described = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    for line in lines:
        if line.startswith("#"):
            assert re.match(r"# (HELP holmes_\w+ .+|TYPE holmes_\w+ (gauge|counter))$", line)
        else:
            assert SAMPLE.fullmatch(line), line
            assert line.partition("{")[0] in described
    assert len(described) >= 12


def test_the_server_answers_only_metrics(run: Make) -> None:
    folder = run()
    with MetricsServer(folder, 0) as server:
        place = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{place}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert b"holmes_steps_total" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{place}/../plan.json", timeout=10)
        with pytest.raises(UnavailableError, match="another port"):
            MetricsServer(folder, server.port)
        (folder / "metrics.jsonl").write_text("broken\n")
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{place}/metrics", timeout=10)


def test_memory_of_a_resumed_step_counts_once(tmp_path: Path) -> None:
    for step, bytes_ in ((0, 5), (1, 6), (1, 7)):
        append_memory(tmp_path, 3, step, bytes_)
    assert read_memory(tmp_path) == {3: [(0, 5), (1, 7)]}
    (tmp_path / "memory" / "rank-0.jsonl").write_text('{"step": 1, "bytes": -1}\n')
    with pytest.raises(DataError, match=r"rank-0\.jsonl:1"):
        read_memory(tmp_path)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("/no/run",), 65),
        (("RUN", "--address", "0.0.0.0"), 2),
        (("RUN", "--prometheus", "9400", "--once"), 2),
        (("RUN", "--once"), 0),
        (("RUN", "--json"), 0),
    ],
)
def test_the_command(run: Make, words: tuple[str, ...], code: int) -> None:
    given = [str(run()) if word == "RUN" else word for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "holmes", "watch", *given],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "\x1b" not in done.stdout
    if "--json" in words:
        assert json.loads(done.stdout)["step"] == 3
