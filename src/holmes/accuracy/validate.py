"""Score a table: predict every row first, then look at what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holmes.accuracy.flops import flops_per_sample
from holmes.accuracy.predict import Prediction, predict
from holmes.accuracy.score import Score, Scored, compare_memory, compare_time, score_of
from holmes.accuracy.table import Case, Row, UnusableRowError, read_table
from holmes.cost.calibration import DEFAULT, Calibration
from holmes.errors import DataError


@dataclass(frozen=True)
class Skipped:
    """A row without a score, and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class Validation:
    """Predictions of a table and their scores, for time and for memory."""

    table: str
    calibration: str
    predictions: dict[int, Prediction]
    time: tuple[Scored, ...]
    memory: tuple[Scored, ...]
    skipped: tuple[Skipped, ...]
    memory_skipped: tuple[Skipped, ...]
    false_fits: tuple[int, ...]

    @property
    def score(self) -> Score:
        return score_of(self.time)

    @property
    def memory_score(self) -> Score:
        return score_of(self.memory)

    def to_dict(self) -> dict[str, Any]:
        """The object that ``holmes validate --json`` prints."""
        return {
            "table": self.table,
            "calibration": self.calibration,
            **self.score.to_dict(),
            "inside_interval": self.inside_interval,
            "skipped": [asdict(skip) for skip in self.skipped],
            "rows": [self._row(scored) for scored in self.time],
            "memory": {
                **self.memory_score.to_dict(),
                "false_fits": list(self.false_fits),
                "skipped": [asdict(skip) for skip in self.memory_skipped],
                "rows": [asdict(scored) for scored in self.memory],
            },
        }

    @property
    def inside_interval(self) -> float | None:
        """Share of the rows scored by time whose measurement lies in the stated interval."""
        if not self.time:
            return None
        inside = 0
        for scored in self.time:
            prediction = self.predictions[scored.row]
            measured = prediction.seconds / (1 + scored.error)
            if scored.metric != "iter_time_s":
                measured = prediction.seconds * (1 + scored.error)
            inside += prediction.low <= measured <= prediction.high
        return inside / len(self.time)

    def _row(self, scored: Scored) -> dict[str, Any]:
        prediction = self.predictions[scored.row]
        return {
            **asdict(scored),
            "seconds": prediction.seconds,
            "low": prediction.low,
            "high": prediction.high,
            "memory_bytes": prediction.memory_bytes,
            "source": prediction.source,
            "assumed": list(prediction.assumed),
        }


def validate(table: Path, sites: Path, calibration: Calibration = DEFAULT) -> Validation:
    """Predict every row of a table and score it.

    Raises:
        DataError: the table is no table, or ``sites`` no folder.
    """
    if not sites.is_dir():
        raise DataError(
            "there is no folder of site files",
            where=str(sites),
            why="each row names the site it ran on, a file in this folder",
            next_step="give it with --sites",
        )
    return validate_rows(read_table(table), sites, calibration, name=str(table))


def validate_rows(
    rows: Sequence[Row], sites: Path, calibration: Calibration, *, name: str
) -> Validation:
    """Predict rows, then score them."""
    predictions: dict[int, Prediction] = {}
    cases: dict[int, Case] = {}
    reasons = {row.row: row.reason for row in rows if row.case is None}
    for row in rows:
        if row.case is not None:
            try:
                predictions[row.row] = predict(row.case, sites, calibration)
                cases[row.row] = row.case
            except UnusableRowError as reason:
                reasons[row.row] = str(reason)
    return _scores(rows, cases, predictions, reasons, (name, calibration.name))


def _scores(
    rows: Sequence[Row],
    cases: dict[int, Case],
    predictions: dict[int, Prediction],
    reasons: dict[int, str],
    names: tuple[str, str],
) -> Validation:
    time, memory = [], []
    skipped = [Skipped(row, reason) for row, reason in sorted(reasons.items())]
    memory_skipped = list(skipped)
    false_fits = []
    for row in rows:
        if row.row not in predictions:
            continue
        case, prediction = cases[row.row], predictions[row.row]
        flops = flops_per_sample(case, hardware=row.measured.hardware_flops)
        timed = compare_time(case, row.measured, prediction.seconds, flops)
        if timed is None:
            skipped.append(Skipped(row.row, "no measured time"))
        else:
            time.append(timed)
        sized = compare_memory(
            case, row.measured, prediction.memory_bytes, prediction.counted_bytes
        )
        if sized is None:
            memory_skipped.append(Skipped(row.row, "no measured memory"))
        else:
            memory.append(sized)
            if prediction.fits and not prediction.holds(sized.measured):
                false_fits.append(row.row)
    return Validation(
        names[0],
        names[1],
        predictions,
        tuple(time),
        tuple(memory),
        tuple(skipped),
        tuple(memory_skipped),
        tuple(false_fits),
    )
