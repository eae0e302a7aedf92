"""What of the cost model is fitted to tables of runs, and from which prior knowledge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from holmes.accuracy.case_plan import CasePlan, plan_of
from holmes.accuracy.predict import case_seconds
from holmes.accuracy.table import Row, UnusableRowError
from holmes.cost.calibration import Calibration
from holmes.cost.fit import Coefficient, Fit, fit
from holmes.errors import DataError
from holmes.hardware.topology import DeviceSlot

LEAST_INTERVAL = 0.05
"""No prediction claims to be better than this."""
COVERED = 0.9
"""Share of the fitted runs that the interval holds."""


@dataclass(frozen=True)
class TimedCase:
    """A case with its plan made, and its measured seconds of a step."""

    made: CasePlan
    seconds: float


def timed_cases(rows: Sequence[Row], sites: Path, calibration: Calibration) -> list[TimedCase]:
    """The rows that can be planned and have a measured time."""
    found = []
    for row in rows:
        measured = row.measured
        seconds = measured.seconds
        if row.case is None:
            continue
        if seconds is None and measured.samples_per_second is not None:
            seconds = row.case.global_batch / measured.samples_per_second
        if seconds is not None:
            try:
                found.append(TimedCase(plan_of(row.case, sites, calibration), seconds))
            except UnusableRowError:
                continue
    return found


def log_errors(cases: Sequence[TimedCase], calibration: Calibration) -> list[float]:
    """ln(predicted / measured) of every case."""
    return [
        math.log(case_seconds(with_calibration(case.made, calibration)) / case.seconds)
        for case in cases
    ]


def with_calibration(made: CasePlan, calibration: Calibration) -> CasePlan:
    """A case under another calibration; its plan does not depend on it."""
    return replace(made, cost=replace(made.cost, calibration=calibration))


def fitted(
    cases: Sequence[TimedCase], start: Calibration, coefficients: Sequence[Coefficient]
) -> Fit:
    """A calibration fitted to cases, its interval wide enough for nine of ten of them.

    Raises:
        DataError: there is nothing to fit to.
    """
    if not cases:
        raise DataError(
            "no row has both a usable layout and a measured time",
            where="table",
            next_step="`holmes validate` on the same table says why each row is skipped",
        )
    found = fit(start, coefficients, lambda calibration: log_errors(cases, calibration))
    interval = max(LEAST_INTERVAL, round(found.quantile(COVERED), 3))
    kinds = {case.made.cost.device(s).name for case in cases for s in _kinds(case.made)}
    made = replace(found.calibration, interval=interval, fitted_kinds=tuple(sorted(kinds)))
    return replace(found, calibration=made)


def _kinds(made: CasePlan) -> list[DeviceSlot]:
    """One device of each node group."""
    slots = made.cost.topology.devices
    return list({id(slot.node.group): slot for slot in slots}.values())
