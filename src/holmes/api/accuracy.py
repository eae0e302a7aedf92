"""How far predictions are off, and fitting them to own runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holmes.errors import UsageError


def validate(table: Path, *, sites: Path, calibration: Path | None = None) -> dict[str, Any]:
    """Predict every row of a table of measured runs and score the predictions.

    Raises:
        DataError: the table, a site folder or the calibration is bad.
    """
    from holmes.accuracy.calibrate import read_calibration
    from holmes.accuracy.validate import validate as run
    from holmes.cost.calibration import DEFAULT

    used = DEFAULT if calibration is None else read_calibration(calibration)
    return run(table, sites, used).to_dict()


def calibrate(source: Path, *, output: Path, sites: Path | None = None) -> dict[str, Any]:
    """Fit the cost model to a run's trace, or to a CSV table of runs on ``sites``.

    Raises:
        DataError: nothing to fit to.
        UsageError: a table without its sites, or sites without a table.
    """
    from holmes.accuracy.calibrate import calibrate_table, calibrate_trace, write_calibration

    if source.suffix == ".csv":
        if sites is None:
            raise UsageError(
                "a table needs the sites of its rows",
                where="--sites",
                next_step="give the folder of site files with --sites",
            )
        made = calibrate_table(source, sites)
    elif sites is not None:
        raise UsageError("--sites has no effect on a trace, whose plan holds its site")
    else:
        made = calibrate_trace(source)
    write_calibration(made, output)
    return {
        "calibration": str(output),
        "name": made.name,
        "source": made.source,
        "interval": made.interval,
        "compute": made.to_dict()["compute"],
    }
