"""What went wrong in a run, and how it went on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holmes.report import units
from holmes.report.parts.html import Html, join, section, tag
from holmes.report.run_data import RunData


def diagnosis(runs: Sequence[RunData]) -> Html:
    """Verdicts with their evidence, and the parts of every recovery; nothing where all is well."""
    told = [run for run in runs if run.diagnosis or run.recoveries]
    if not told:
        return join(())
    return section(
        "diagnosis",
        "Diagnosis",
        "What failed, from what the ranks left behind, and how the run went on.",
        *(_of_run(run, named=len(runs) > 1) for run in told),
    )


def _of_run(run: RunData, *, named: bool) -> Html:
    return tag(
        "div",
        tag("h3", run.name) if named else None,
        _verdict(run.diagnosis) if run.diagnosis else None,
        *(_recovery(one) for one in run.recoveries),
        tag("p", f"The run {run.gave_up}.") if run.gave_up else None,
        _ledger(run),
    )


def _verdict(found: Mapping[str, Any]) -> Html:
    verdict = found.get("verdict")
    said = verdict if isinstance(verdict, Mapping) else {}
    evidence = found.get("evidence")
    lines = evidence if isinstance(evidence, list) else []
    what, advice = found.get("what"), found.get("advice")
    return tag(
        "div",
        tag("p", tag("strong", _place(said)), f" {what}" if what else None),
        tag("ul", *(tag("li", str(line)) for line in lines)) if lines else None,
        tag("p", "Next: ", *_with_code(str(advice))) if advice else None,
    )


def _with_code(text: str) -> list[Html | str]:
    """Words between backticks as code."""
    parts = text.split("`")
    return [tag("code", part) if place % 2 else part for place, part in enumerate(parts)]


def _place(verdict: Mapping[str, Any]) -> str:
    """``dead: rank 2, host a-2, confidence 0.99``."""
    words = [
        f"{key} {verdict[key]}"
        for key in ("rank", "host", "nic", "link", "confidence")
        if verdict.get(key) is not None
    ]
    return f"{verdict.get('class', 'unknown')}: {', '.join(words)}"


def _recovery(found: Mapping[str, Any]) -> Html:
    told = found.get("seconds")
    seconds = told if isinstance(told, Mapping) else {}
    head = tag("tr", *(tag("th", str(part).replace("_", " ")) for part in (*seconds, "total")))
    total = found.get("total_seconds")
    cells = [*seconds.values(), total]
    row = tag("tr", *(tag("td", _seconds(value), class_="number") for value in cells))
    note = (
        f"Start {found.get('generation')} went on from step {found.get('resumed_from')} on "
        f"{found.get('hosts')} hosts; {found.get('steps_lost')} steps were done again."
    )
    table = tag("table", tag("thead", head), tag("tbody", row))
    return tag("div", _verdict(found), tag("p", note), tag("div", table, class_="scroll"))


def _seconds(value: Any) -> str:
    return units.seconds(float(value)) if isinstance(value, int | float) else "not known"


def _ledger(run: RunData) -> Html | None:
    lost, repeated = run.figure("ledger", "lost"), run.figure("ledger", "repeated")
    samples = run.figure("ledger", "samples")
    if samples is None:
        return None
    return tag(
        "p",
        f"Of {samples:.0f} samples {lost or 0:.0f} were lost, {repeated or 0:.0f} came twice.",
    )
