"""The top of the page: the one number, how it was obtained, and the facts around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holmes.report import units
from holmes.report.claim import CLAIM, claim
from holmes.report.parts.bars import Mark, Piece, bar
from holmes.report.parts.because import because
from holmes.report.parts.html import Html, join, tag
from holmes.report.run_data import WARM_UP_STEPS, RunData

_LINKS = {
    "shaped": "each link was shaped to its rate, and bytes were counted by the kernel",
    "unshaped": "links were not shaped: step times say nothing about these networks",
}
_DEVICES = {
    "real": "every rank computed for real",
    "virtual": "ranks slept instead of computing: only the network part is measured",
}


def headline(runs: Sequence[RunData], summary: Mapping[str, Any]) -> Html:
    """Title, one large figure, measured and predicted bars, facts."""
    first = runs[0]
    site = first.plan.site.name if first.plan else None
    rehearsed = any(run.word("links") for run in runs)
    kicker = ("Holmes, rehearsed" if rehearsed else "Holmes") + (f" on {site}" if site else "")
    figure, lead = _single(first) if len(runs) == 1 else _comparison(runs, summary)
    reason = _reason(runs, summary)
    return tag(
        "header",
        tag("p", kicker, class_="kicker"),
        tag("h1", figure),
        tag("p", reason, class_="reason") if reason else None,
        tag("p", lead, class_="standfirst"),
        _step_bars(runs),
        _chips(runs),
        _facts(runs),
        _machine(runs, summary),
    )


def _single(run: RunData) -> tuple[str, str]:
    if run.step_seconds is None:
        if run.predicted_seconds is None:
            return run.name, "No step time was recorded for this run."
        return (
            f"{units.seconds(run.predicted_seconds)} a step",
            f"Simulated, not measured: {run.name}.",
        )
    return f"{units.seconds(run.step_seconds)} a step", f"Run {run.name}{_against(run)}."


def _against(run: RunData) -> str:
    if run.predicted_seconds is None or run.step_seconds is None:
        return ""
    off = run.predicted_seconds / run.step_seconds - 1
    return f", predicted {units.seconds(run.predicted_seconds)} ({units.percent(off)})"


def speedup(runs: Sequence[RunData], summary: Mapping[str, Any]) -> float | None:
    """How many times faster the first run is than the second: as told, else of the medians."""
    told = summary.get("speedup")
    if isinstance(told, int | float) and told > 0:
        return float(told)
    ours, theirs = runs[0].step_seconds, runs[1].step_seconds
    return theirs / ours if ours and theirs else None


def _comparison(runs: Sequence[RunData], summary: Mapping[str, Any]) -> tuple[str, str]:
    names = f"{runs[0].name} against {runs[1].name}"
    ratio = speedup(runs, summary)
    if ratio is None:
        return _predicted_only(runs, names)
    same = (
        f"{names}: the same model, data and batch on the same machines; "
        "only the plan differs. Measured, median of the steps after the first "
        f"{WARM_UP_STEPS}."
    )
    noise = " Less than 10 % is within the noise." if 1 / CLAIM < ratio < CLAIM else ""
    return claim(ratio), same + noise


def _reason(runs: Sequence[RunData], summary: Mapping[str, Any]) -> str | None:
    """Why the first run beats the second, where it does."""
    if len(runs) < 2 or (speedup(runs, summary) or 0.0) < CLAIM:
        return None
    ours, theirs = runs[0].plan, runs[1].plan
    return because(ours, theirs) if ours and theirs else None


def _predicted_only(runs: Sequence[RunData], names: str) -> tuple[str, str]:
    """Several plans of which none ran: the first one's step, and what the others would take."""
    first = runs[0].predicted_seconds
    if any(run.step_seconds for run in runs) or not first:
        return names, "A measured step time is missing, so no speed-up is stated."
    others = [
        f"{run.name} {units.seconds(run.predicted_seconds)} "
        f"({units.percent(run.predicted_seconds / first - 1)})"
        for run in runs[1:]
        if run.predicted_seconds
    ]
    told = f"Simulated, not measured: {runs[0].name}."
    if others:
        told += f" Beside it: {'; '.join(others)}."
    return f"{units.seconds(first)} a step", told


def _step_bars(runs: Sequence[RunData]) -> Html | None:
    known = [v for r in runs for v in (r.step_seconds, r.predicted_seconds) if v]
    if not known:
        return None
    longest = 1.04 * max(known)
    rows = [_step_bar(run, longest, "run-a" if i == 0 else "run-b") for i, run in enumerate(runs)]
    if not any(run.step_seconds for run in runs):
        return tag("div", *rows, class_="bars steps")
    key = tag(
        "p",
        tag("span", class_="swatch run-a"),
        "measured step ",
        tag("span", class_="swatch upright"),
        "predicted before the run",
        class_="key",
    )
    return tag("div", *rows, key, class_="bars steps")


def _step_bar(run: RunData, longest: float, style: str) -> Html:
    measured, predicted = run.step_seconds, run.predicted_seconds
    low, high = run.figure("step_seconds", "q1"), run.figure("step_seconds", "q3")
    quartiles = f"\nquartiles {units.seconds(low)} to {units.seconds(high)}" if low and high else ""
    tip = f"{run.name}, measured median {units.seconds(measured)}{quartiles}"
    if predicted and not measured:
        tip = f"{run.name}, simulated {units.seconds(predicted)}"
        told = tag("span", units.seconds(predicted))
        return bar(run.name, told, [Piece(predicted / longest, style, tip)], (), "simulated")
    pieces = [Piece(measured / longest, style, tip)] if measured else []
    marks = (
        [Mark(predicted / longest, "expected", f"{run.name}, predicted {units.seconds(predicted)}")]
        if predicted
        else []
    )
    note = f"predicted {units.seconds(predicted)}" if predicted else None
    if predicted and measured:
        note = f"{note}, {units.percent(predicted / measured - 1)}"
    value = units.seconds(measured) if measured else "not measured"
    return bar(run.name, value, pieces, marks, note)


def _chips(runs: Sequence[RunData]) -> Html | None:
    chips: list[Html] = []
    for key, meanings in (("links", _LINKS), ("devices", _DEVICES)):
        for said in dict.fromkeys(run.word(key) for run in runs):
            if said is not None:
                meaning = meanings.get(said, "")
                caution = " caution" if said in ("unshaped", "virtual") else ""
                chips.append(
                    tag("li", tag("b", f"{key} {said}"), f" {meaning}", class_=f"chip{caution}")
                )
    return tag("ul", *chips, class_="chips") if chips else None


def _facts(runs: Sequence[RunData]) -> Html:
    run = runs[0]
    facts: list[tuple[str, str, str]] = []
    if run.plan:
        work, degrees, batch = run.plan.workload, run.plan.degrees, run.plan.batch
        facts.append(("model", work.name, f"{units.count(work.parameters)} parameters"))
        tensor = "" if degrees["tp"] == 1 else f", tensor {degrees['tp']}"
        tensor += f", context {run.plan.context}" if run.plan.context > 1 else ""
        tensor += f", expert {run.plan.expert}" if run.plan.expert > 1 else ""
        facts.append(
            (
                "ranks",
                f"{run.plan.world_size}",
                f"pipeline {degrees['pp']}, data {degrees['dp']}{tensor}",
            )
        )
        shape = f"{run.plan.schedule.microbatches} micro-batches of {batch.micro} a replica"
        facts.append(("batch", f"{batch.global_}", shape))
    first, last = run.figure("loss", "first"), run.figure("loss", "last")
    if first is not None and last is not None:
        held = run.figure("loss", "validation")
        note = f"held-out text {held:.3f}" if held is not None else ""
        facts.append(("loss", f"{first:.3f} → {last:.3f}", note))
    speed = run.figure("tokens_per_second")
    if speed is not None:
        facts.append(("tokens per second", f"{speed:,.0f}", run.name if len(runs) > 1 else ""))
    steps = run.figure("steps")
    if steps is not None:
        facts.append(("steps", f"{steps:.0f}", ""))
    cells = [
        tag(
            "div",
            tag("dt", name),
            tag("dd", value, class_="long" if len(value) > 16 else None),
            tag("small", note) if note else None,
        )
        for name, value, note in facts
    ]
    return tag("dl", *cells, class_="facts") if cells else join(())


def _machine(runs: Sequence[RunData], summary: Mapping[str, Any]) -> Html | None:
    """The machine that measured, from the first summary that names it."""
    for source in (summary, *(run.summary for run in runs)):
        told = source.get("machine")
        if isinstance(told, Mapping):
            told = ", ".join(
                f"{str(key).replace('_', ' ')} {value}"
                for key, value in told.items()
                if isinstance(value, str | int | float)
            )
        if isinstance(told, str) and told:
            return tag("p", f"Measured on this machine: {told}.", class_="note")
    return None
