"""Traces and metrics on disk: round trips, torn tails, malformed lines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from holmes.errors import DataError, WriteError
from holmes.events.metrics import StepMetrics, append_metrics, read_metrics
from holmes.events.span import Span
from holmes.events.trace import append_trace, read_trace

SPAN = Span(7, 1, 3, "comm:data.s0", "reduce_scatter", 0, None, 10, 25, 4096, "gradients.0")
STEP = StepMetrics(1, 7.6, 0.41, 1000.0, 0.9, 3e-4, {"infiniband": 10, "ethernet": 4})


def test_spans_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    append_trace(path, [SPAN])
    append_trace(path, [Span(8, 0, 3, "compute", "forward", 0, 2, 0, 9)])
    timeline = read_trace(path)
    assert timeline.source == "measured"
    assert timeline.spans[0] == SPAN
    assert timeline.spans[1].microbatch == 2


def test_metrics_come_back_as_written_and_a_resumed_step_wins(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    again = StepMetrics(1, 7.5, 0.40, 1000.0, None, 3e-4)
    append_metrics(path, [STEP, StepMetrics(2, None, 0.4, 1.0, None, 0.0), again])
    assert read_metrics(path)[0] == again
    assert [m.step for m in read_metrics(path)] == [1, 2]


def test_non_finite_numbers_are_valid_json_and_survive(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, [StepMetrics(1, math.nan, 0.4, 1.0, math.inf, 0.0)])
    json.loads(path.read_text(), parse_constant=pytest.fail)
    (back,) = read_metrics(path)
    assert back.loss is not None and math.isnan(back.loss)
    assert back.grad_norm == math.inf


@pytest.mark.parametrize("torn", ['{"step": 2, "los', "17", '{"step"', "\xff"])
def test_a_torn_last_line_is_skipped_and_then_removed(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, [STEP])
    with path.open("ab") as file:
        file.write(torn.encode("latin-1"))
    assert read_metrics(path) == [STEP]
    second = StepMetrics(2, 7.0, 0.4, 1.0, 1.0, 0.0)
    append_metrics(path, [second])
    assert read_metrics(path) == [STEP, second]


def test_a_torn_line_longer_than_one_block_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    append_trace(path, [SPAN])
    with path.open("ab") as file:
        file.write(b"x" * 10_000)
    append_trace(path, [SPAN])
    assert read_trace(path).spans == (SPAN, SPAN)


@pytest.mark.parametrize(
    "line",
    [
        "{oops",
        "[]",
        "3",
        '{"id": 1}',
        '{"id": 1, "rank": 0, "step": 0, "lane": "compute", "op": "forward", "stage": 0,'
        ' "microbatch": 0, "start": 5, "stop": 4}',
        '{"id": true, "rank": 0, "step": 0, "lane": "compute", "op": "forward", "stage": 0,'
        ' "microbatch": 0, "start": 5, "stop": 6}',
        '{"id": 1, "rank": 0, "step": 0, "lane": "compute", "op": "forward", "stage": 0,'
        ' "microbatch": 0, "start": 5, "stop": 6, "colour": 1}',
        "[" * 100_000,
    ],
)
def test_a_malformed_span_names_file_and_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.jsonl"
    append_trace(path, [SPAN])
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(DataError) as error:
        read_trace(path)
    assert error.value.where == f"{path}:3"


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        '{"step": 1}',
        '{"step": "1"}',
        '{"step": 1, "step_seconds": "fast", "tokens_per_second": 1, "learning_rate": 1}',
        '{"step": 1, "step_seconds": 1, "tokens_per_second": 1, "learning_rate": 1, "bytes": 3}',
    ],
)
def test_malformed_metrics_name_file_and_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError) as error:
        read_metrics(path)
    assert error.value.where == f"{path}:1"


def test_missing_and_unwritable_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_trace(tmp_path / "absent.jsonl")
    with pytest.raises(WriteError, match="cannot append"):
        append_trace(tmp_path / "no" / "folder.jsonl", [SPAN])
