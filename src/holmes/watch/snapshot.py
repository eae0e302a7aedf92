"""Snapshot: a run folder read at one moment, also while ranks write to it."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import yaml

from holmes.errors import DataError
from holmes.events.jsonl import read_objects
from holmes.events.memory import read_memory
from holmes.events.metrics import StepMetrics, read_metrics
from holmes.hardware.topology import Topology
from holmes.plan.codec import read_plan
from holmes.plan.plan import Plan
from holmes.runtime.monitor.board import Phase, read_board

RECENT = 20
"""Steps over which medians and rates are taken."""
STALLED = 10.0
"""A run whose last step is this many step times old (and a few seconds) is called stalled."""
LEAST_STALL_SECONDS = 5.0
State = Literal["starting", "running", "stalled", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class RankStanding:
    """One rank: its step and phase on its board, whether its process is there (None where it
    runs on another machine), memory after its last step and as predicted, in bytes."""

    rank: int
    node: str
    step: int | None
    phase: str
    alive: bool | None
    memory_bytes: int | None
    predicted_bytes: int | None


@dataclass(frozen=True)
class Snapshot:
    """A run now. Times in seconds; ``bytes_per_second`` by NIC kind, over recent steps.

    ``losses`` and ``seconds`` are (step, value) of every step; ``behind`` is the recent median
    over the prediction, less one.
    """

    name: str
    state: State
    step: int
    steps: int | None
    loss: float | None
    validation: float | None
    step_seconds: float | None
    predicted_seconds: float
    behind: float | None
    tokens_per_second: float | None
    grad_norm: float | None
    learning_rate: float | None
    bytes_per_step: dict[str, int]
    bytes_per_second: dict[str, float]
    predicted_bytes: dict[str, int]
    checkpoint: str | None
    diagnosis: str | None
    age_seconds: float | None
    left_seconds: float | None
    ranks: tuple[RankStanding, ...]
    losses: tuple[tuple[int, float], ...]
    seconds: tuple[tuple[int, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers that are not finite become text, as in the metrics file."""
        values: dict[str, Any] = _plain(asdict(self))
        return values


def take(run: Path, now: float | None = None) -> Snapshot:
    """Read a run folder.

    Raises:
        DataError: it holds no run, or a file in it is malformed.
    """
    if not (run / "plan.json").is_file():
        raise DataError(
            "this folder holds no run",
            where=str(run),
            why="there is no plan.json in it",
            next_step="give a folder that `holmes rehearse` or `holmes train` writes to",
        )
    now = time.time() if now is None else now
    plan = read_plan(run / "plan.json")
    path = run / "metrics.jsonl"
    metrics = read_metrics(path) if path.exists() else []
    recent = metrics[-RECENT:]
    last = metrics[-1] if metrics else None
    seconds = median(each.step_seconds for each in recent) if recent else None
    steps = _steps(run)
    step = last.step + 1 if last else 0
    age = max(0.0, now - path.stat().st_mtime) if metrics else None
    ranks = _standings(run, plan)
    state = _state(run, step, steps, age, seconds, ranks)
    left = (steps - step) * seconds if steps and seconds and state == "running" else None
    return Snapshot(
        name=run.resolve().name,
        state=state,
        step=step,
        steps=steps,
        loss=last.loss if last else None,
        validation=_validation(run),
        step_seconds=seconds,
        predicted_seconds=plan.predicted.step_seconds,
        behind=seconds / plan.predicted.step_seconds - 1 if seconds else None,
        tokens_per_second=last.tokens_per_second if last else None,
        grad_norm=last.grad_norm if last else None,
        learning_rate=last.learning_rate if last else None,
        bytes_per_step=dict(last.bytes) if last else {},
        bytes_per_second=_rates(recent),
        predicted_bytes=dict(plan.predicted.bytes_per_step),
        checkpoint=_checkpoint(run),
        diagnosis=_diagnosis(run),
        age_seconds=age,
        left_seconds=left,
        ranks=ranks,
        losses=tuple((each.step, each.loss) for each in metrics if each.loss is not None),
        seconds=tuple((each.step, each.step_seconds) for each in metrics),
    )


def _state(
    run: Path,
    step: int,
    steps: int | None,
    age: float | None,
    seconds: float | None,
    ranks: tuple[RankStanding, ...],
) -> State:
    if steps is not None and step >= steps:
        return "finished"
    if (run / "evidence.json").exists():
        return "failed"
    gone = bool(ranks) and all(each.alive is False for each in ranks)
    if gone and step:
        return "stopped"
    if age is None or seconds is None:
        return "stopped" if gone else "starting"
    return "stalled" if age > max(LEAST_STALL_SECONDS, STALLED * seconds) else "running"


def _steps(run: Path) -> int | None:
    """How many steps the job wants; None where the job cannot be read."""
    try:
        job = yaml.safe_load((run / "job.yaml").read_text(encoding="utf-8"))
        return int(job["train"]["steps"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return None


def _standings(run: Path, plan: Plan) -> tuple[RankStanding, ...]:
    devices = Topology(plan.site).devices
    memory = read_memory(run)
    found: list[RankStanding] = []
    for rank, device in enumerate(plan.rank_map):
        step, phase, alive = _board(run, rank)
        held = memory.get(rank)
        found.append(
            RankStanding(
                rank=rank,
                node=devices[device].node.name,
                step=step,
                phase=phase,
                alive=alive,
                memory_bytes=held[-1][1] if held else None,
                predicted_bytes=plan.predicted.memory_bytes.get(rank),
            )
        )
    return tuple(found)


PHASES = {
    Phase.SAVING: "saving",
    Phase.EVALUATING: "evaluating",
    Phase.OUTSIDE: "between steps",
    Phase.BEFORE: "before a step",
    Phase.INSIDE: "computing",
    Phase.AFTER: "after a step",
}


def _board(run: Path, rank: int) -> tuple[int | None, str, bool | None]:
    try:
        reading = read_board(run / "monitor" / f"rank-{rank}.board")
    except DataError:  # not there yet, or the run keeps none
        return None, "no board", None
    return reading.step, PHASES[reading.phase], _alive(reading.pid)


def _alive(pid: int) -> bool | None:
    """Whether a process of this machine runs Holmes under this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return None
    return True


def _rates(recent: list[StepMetrics]) -> dict[str, float]:
    spent = sum(each.step_seconds for each in recent)
    kinds = dict.fromkeys(kind for each in recent for kind in each.bytes)
    return {kind: sum(each.bytes.get(kind, 0) for each in recent) / spent for kind in kinds}


def _validation(run: Path) -> float | None:
    path = run / "evaluations.jsonl"
    values = [item.get("loss") for _, item in read_objects(path)] if path.exists() else []
    return float(values[-1]) if values and isinstance(values[-1], int | float) else None


def _checkpoint(run: Path) -> str | None:
    with suppress(OSError):
        names = [path.parent.name for path in (run / "checkpoints").glob("step-*/COMMITTED")]
        return max(names, key=lambda name: int(name.removeprefix("step-")), default=None)
    return None


def _diagnosis(run: Path) -> str | None:
    try:
        verdict = json.loads((run / "diagnosis.json").read_text())["verdict"]
        return str(verdict["class"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value - value != 0:
        return repr(value)
    return value
