from __future__ import annotations

from dataclasses import replace
from typing import Any

from holmes.events.trace import Timeline
from holmes.report.page import render
from holmes.report.parts.diagnosis import diagnosis
from holmes.report.run_data import RunData

NOTHING = Timeline("measured", ())
RUN = RunData("run", None, (), NOTHING, Timeline("predicted", ()), {}, "", ())
VERDICT: dict[str, Any] = {
    "verdict": {"class": "dead", "rank": 2, "host": "<b>a-2</b>", "confidence": 1.0},
    "evidence": ["rank 2 died: killed by signal 9 <script>"],
    "advice": "see what ended it",
}
RECOVERY = {
    **VERDICT,
    "generation": 2,
    "resumed_from": 6,
    "steps_lost": 1,
    "hosts": 4,
    "what": "rank 2 died",
    "seconds": {"detect": 0.016, "first_step": 0.1},
    "total_seconds": 0.116,
}


def test_a_run_without_failures_has_no_section() -> None:
    assert str(diagnosis([RUN])) == ""


def test_verdict_evidence_and_parts_are_shown_and_escaped() -> None:
    run = replace(
        RUN,
        diagnosis=VERDICT,
        recovery={"recoveries": [RECOVERY], "gave_up": "gave up after 3 restarts"},
        summary={"ledger": {"samples": 96, "lost": 0, "repeated": 0}},
    )
    shown = str(diagnosis([run]))
    for text in ("dead: rank 2", "detect", "first step", "went on from step 6", "gave up after 3"):
        assert text in shown
    assert "Of 96 samples 0 were lost, 0 came twice" in shown
    assert "<script>" not in shown and "<b>" not in shown
    assert "Diagnosis" in render([run], {})


def test_a_record_of_another_shape_does_no_harm() -> None:
    bad = replace(RUN, diagnosis={"verdict": 3, "evidence": "x"}, recovery={"recoveries": [{}, 5]})
    assert "unknown" in str(diagnosis([bad]))
