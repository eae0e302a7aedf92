"""The exported trace follows the Chrome trace format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holmes.errors import WriteError
from holmes.events.perfetto import chrome_trace, write_perfetto
from holmes.events.span import Span, Timeline

SPANS = (
    Span(0, 0, 5, "compute", "forward", 0, 2, 1_000, 4_000),
    Span(1, 0, 5, "comm:data.s0", "all_gather", 0, None, 2_500, 3_000, 64, "parameters.0"),
    Span(2, 1, 5, "compute", "backward", 1, 0, 2_000, 9_000),
)


def test_every_event_has_what_its_phase_needs() -> None:
    events = chrome_trace([Timeline("predicted", SPANS), Timeline("measured", SPANS)], {0: "ib-0"})[
        "traceEvents"
    ]
    threads = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    for event in events:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0
            assert (event["pid"], event["tid"]) in threads
    first = next(e for e in events if e["ph"] == "X")
    assert (first["name"], first["ts"], first["dur"]) == ("forward m2", 0.0, 3.0)
    assert first["args"]["id"] == 0


def test_ranks_are_named_and_sources_kept_apart() -> None:
    events = chrome_trace([Timeline("predicted", SPANS), Timeline("measured", SPANS)], {0: "ib-0"})[
        "traceEvents"
    ]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sorted(names.values()) == [
        "measured: rank 0 on ib-0",
        "measured: rank 1",
        "predicted: rank 0 on ib-0",
        "predicted: rank 1",
    ]
    assert len(names) == 4


def test_it_is_written_as_json(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    write_perfetto(path, [Timeline("measured", SPANS)], {})
    assert len(json.loads(path.read_text())["traceEvents"]) == 3 + 2 * 2 + 3 * 2
    with pytest.raises(WriteError):
        write_perfetto(tmp_path / "no" / "t.json", [], {})
