"""What a run folder holds, read for the report; absent files are noted, bad ones refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holmes.errors import DataError
from holmes.events.jsonl import read_objects
from holmes.events.memory import read_memory
from holmes.events.metrics import StepMetrics, read_metrics
from holmes.events.span import Timeline
from holmes.events.trace import read_trace
from holmes.plan import Plan
from holmes.plan.codec import read_plan

WARM_UP_STEPS = 3
"""Steps that the median leaves out."""

_LOST = {
    "job.yaml": "the job as it was written",
    "plan.json": "site map, memory, groups and explanation",
    "metrics.jsonl": "the curves of step time and loss",
    "trace.jsonl": "the measured schedule",
    "predicted.jsonl": "the predicted schedule",
    "summary.json": "medians, bytes on the wire, and what was real or emulated",
}


@dataclass(frozen=True)
class RunData:
    """One run. ``missing`` has a sentence for each file that is not there."""

    name: str
    plan: Plan | None
    metrics: tuple[StepMetrics, ...]
    measured: Timeline
    predicted: Timeline
    summary: Mapping[str, Any]
    job: str
    missing: tuple[str, ...]
    held_out: tuple[tuple[int, float], ...] = ()
    """(step, loss on held-out text)."""
    memory: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    """By rank: (step, bytes held after it)."""
    diagnosis: Mapping[str, Any] = field(default_factory=dict)
    """``diagnosis.json``, where the run was diagnosed."""
    recovery: Mapping[str, Any] = field(default_factory=dict)
    """``recovery.json``, where its ranks were started again."""

    @property
    def recoveries(self) -> list[Mapping[str, Any]]:
        """The restarts, in order."""
        found = self.recovery.get("recoveries")
        return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []

    @property
    def gave_up(self) -> str | None:
        """Why there were no more restarts, where there were not."""
        found = self.recovery.get("gave_up")
        return found if isinstance(found, str) else None

    def figure(self, *keys: str) -> float | None:
        """A number of the summary, by nested keys; None when absent or no number."""
        value: Any = self.summary
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None

    def word(self, key: str) -> str | None:
        """A text of the summary, or None."""
        value = self.summary.get(key)
        return value if isinstance(value, str) else None

    @property
    def step_seconds(self) -> float | None:
        """Measured median, from the summary, else over the metrics without warm-up."""
        told = self.figure("step_seconds", "median")
        if told is not None:
            return told
        kept = sorted(m.step_seconds for m in self.metrics[WARM_UP_STEPS:])
        return kept[len(kept) // 2] if kept else None

    @property
    def predicted_seconds(self) -> float | None:
        """Predicted step time, from the summary, else from the plan."""
        told = self.figure("predicted_step_seconds")
        if told is None and self.plan is not None:
            return self.plan.predicted.step_seconds
        return told

    @property
    def typical_step(self) -> int | None:
        """The traced step whose time is nearest the median."""
        traced = sorted({span.step for span in self.measured.spans})
        if not traced:
            return None
        middle = self.step_seconds
        times = {m.step: m.step_seconds for m in self.metrics}
        known = [step for step in traced if step in times]
        if middle is None or not known:
            return traced[len(traced) // 2]
        return min(known, key=lambda step: abs(times[step] - middle))


def read_run(folder: Path, name: str | None = None) -> RunData:
    """Read a run folder.

    Raises:
        DataError: when the folder is missing, empty of run files, or a file in it is malformed.
    """
    if not folder.is_dir():
        raise DataError(
            "there is no such run folder",
            where=str(folder),
            next_step="give a folder that `holmes rehearse` or `holmes train` wrote",
        )
    there = {file for file in _LOST if (folder / file).is_file()}
    if not there:
        raise DataError(
            "this folder holds no run",
            where=str(folder),
            why=f"none of {', '.join(_LOST)} is in it",
            next_step="give a folder that `holmes rehearse` or `holmes train` wrote",
        )
    summary = _read_summary(folder / "summary.json") if "summary.json" in there else {}
    chosen = name or folder.resolve().name
    return RunData(
        name=chosen,
        plan=read_plan(folder / "plan.json") if "plan.json" in there else None,
        metrics=tuple(read_metrics(folder / "metrics.jsonl") if "metrics.jsonl" in there else ()),
        measured=_read_spans(folder / "trace.jsonl", there),
        predicted=_read_spans(folder / "predicted.jsonl", there),
        summary=summary,
        job=_read_text(folder / "job.yaml") if "job.yaml" in there else "",
        missing=tuple(
            f"{chosen} has no {file}, so the page lacks {lost}."
            for file, lost in _LOST.items()
            if file not in there
        ),
        held_out=_read_held_out(folder / "evaluations.jsonl"),
        memory=read_memory(folder),
        diagnosis=_read_object(folder / "diagnosis.json"),
        recovery=_read_object(folder / "recovery.json"),
    )


def _read_object(path: Path) -> dict[str, Any]:
    return _read_summary(path) if path.is_file() else {}


def _read_held_out(path: Path) -> tuple[tuple[int, float], ...]:
    if not path.is_file():
        return ()
    found: dict[int, float] = {}
    for where, item in read_objects(path):
        step, loss = item.get("step"), item.get("loss")
        if not isinstance(step, int) or not isinstance(loss, int | float):
            raise DataError("`step` and `loss` must be numbers", where=where)
        found[step] = float(loss)
    return tuple(sorted(found.items()))


def _read_spans(path: Path, there: set[str]) -> Timeline:
    source: Any = "measured" if path.name == "trace.jsonl" else "predicted"
    return read_trace(path, source) if path.name in there else Timeline(source)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read {path.name}: {error.strerror}", where=str(path)) from None


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not JSON", where=str(path), why=str(error)) from None
    if not isinstance(value, dict):
        raise DataError(f"{path.name} must be one JSON object", where=str(path))
    return value
