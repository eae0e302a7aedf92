"""From a run folder to a verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holmes.diagnose.records import Records, read_records, verdict_from
from holmes.diagnose.slow import why_slow
from holmes.diagnose.verdict import Verdict
from holmes.errors import WriteError
from holmes.events.jsonl import read_objects

RESULT = "diagnosis.json"
HEALTH = "health.jsonl"


def diagnose(run: Path) -> Verdict:
    """What was wrong with a run.

    Raises:
        DataError: it is no run folder, or what it left is damaged.
    """
    records = read_records(run)
    told = _told(run)
    if records.evidence is not None and not (told and records.evidence["kind"] == "error"):
        return _failed(records, records.evidence)
    skipped = [
        step
        for step in records.complete
        if not all(found[step].applied for found in records.steps.values())
    ]
    if told:
        culprits = {item.get("rank") for item in told}
        rank = culprits.pop() if len(culprits) == 1 else None
        host = None if rank is None else records.places.host(rank)
        lines = tuple(str(item.get("text", "")) for item in told[:5])
        return Verdict("software", rank, host, confidence=0.8, evidence=lines)
    if skipped:
        listed = ", ".join(str(step) for step in skipped[:5])
        seen = f"the gradient norm was not finite in {len(skipped)} steps, which were skipped"
        return Verdict("software", confidence=0.7, evidence=(f"{seen}: {listed}",))
    return why_slow(records)


def write_diagnosis(run: Path, verdict: Verdict) -> Path:
    """Write ``diagnosis.json`` into the run folder.

    Raises:
        WriteError: it cannot be written.
    """
    path = run / RESULT
    try:
        path.write_text(json.dumps(verdict.to_dict(), indent=1) + "\n")
    except OSError as error:
        raise WriteError(f"cannot write: {error.strerror}", where=str(path)) from None
    return path


def _told(run: Path) -> list[dict[str, Any]]:
    """What the ranks said of steps and replicas themselves."""
    path = run / HEALTH
    return [item for _, item in read_objects(path)] if path.exists() else []


def _failed(records: Records, evidence: Mapping[str, Any]) -> Verdict:
    """The first thing that went wrong; what followed from it is not looked at."""
    rank = evidence.get("rank")
    host = None if rank is None else records.places.host(rank)
    lines = tuple(str(evidence.get("text", "")).splitlines()[:1])
    known = evidence["verdict"]
    if evidence["kind"] == "death" and (known is None or known["cls"] != "dead"):
        return Verdict("dead", rank, host, evidence=(*lines, *_last(records, rank)))
    if known is not None:
        return verdict_from(known)
    return Verdict("software", rank, host, confidence=0.8, evidence=lines)


def _last(records: Records, rank: int | None) -> tuple[str, ...]:
    steps = records.steps.get(rank, {}) if rank is not None else {}
    return (f"its last complete step was {max(steps)}",) if steps else ()
