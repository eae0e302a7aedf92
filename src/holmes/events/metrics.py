"""``metrics.jsonl``: one line for each training step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holmes.errors import DataError
from holmes.events.jsonl import append_objects, read_objects

_NUMBERS = ("step_seconds", "tokens_per_second", "grad_norm", "learning_rate")
_NON_FINITE = frozenset({"nan", "inf", "-inf"})


@dataclass(frozen=True)
class StepMetrics:
    """What one step did.

    ``step_seconds`` is barrier to barrier, the maximum over ranks. ``bytes`` is
    sent per NIC kind, summed over nodes. ``loss`` and ``grad_norm`` are None
    when devices are virtual. JSON knows no NaN: non-finite values are written
    as the text ``nan``, ``inf`` or ``-inf``.
    """

    step: int
    loss: float | None
    step_seconds: float
    tokens_per_second: float
    grad_norm: float | None
    learning_rate: float
    bytes: dict[str, int] = field(default_factory=dict)


def append_metrics(path: Path, steps: Iterable[StepMetrics]) -> None:
    """Append one line a step.

    Raises:
        WriteError: when the file cannot be written.
    """
    append_objects(path, (metrics_to_dict(step) for step in steps))


def metrics_to_dict(step: StepMetrics) -> dict[str, Any]:
    """JSON-ready values, non-finite numbers as text."""
    return {name: _out(value) for name, value in asdict(step).items()}


def read_metrics(path: Path) -> list[StepMetrics]:
    """Read the steps in file order; an unterminated last line is skipped.

    A run that was resumed may repeat steps: the later line wins, at its place in
    step order.

    Raises:
        DataError: naming file and line, when the file is missing or a line is wrong.
    """
    by_step = {m.step: m for m in (_metrics(item, where) for where, item in read_objects(path))}
    return [by_step[step] for step in sorted(by_step)]


def _out(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def _metrics(item: dict[str, Any], where: str) -> StepMetrics:
    step = item.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        raise DataError(f"`step` must be an integer, got {step!r}", where=where)
    numbers = {name: _number(item, name, where) for name in _NUMBERS}
    for name in ("step_seconds", "tokens_per_second", "learning_rate"):
        if numbers[name] is None:
            raise DataError(f"`{name}` is missing", where=where)
    sent = item.get("bytes", {})
    if not isinstance(sent, dict) or not all(
        isinstance(n, int) and not isinstance(n, bool) for n in sent.values()
    ):
        raise DataError("`bytes` must map NIC kinds to integers", where=where)
    return StepMetrics(
        step=step,
        loss=_number(item, "loss", where),
        step_seconds=numbers["step_seconds"] or 0.0,
        tokens_per_second=numbers["tokens_per_second"] or 0.0,
        grad_norm=numbers["grad_norm"],
        learning_rate=numbers["learning_rate"] or 0.0,
        bytes=dict(sent),
    )


def _number(item: dict[str, Any], name: str, where: str) -> float | None:
    value = item.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value in _NON_FINITE:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"`{name}` must be a number, got {value!r}", where=where)
    return float(value)
