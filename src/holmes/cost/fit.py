"""Fit the coefficients of a calibration to measured runs.

Few coefficients, each with a physical meaning, bounds, and a prior: what is
known of it before any run. The fit minimises the robust sum of squared
logarithms of predicted over measured, and of how far coefficients leave their
priors. A coefficient that the runs do not determine stays at its prior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holmes.cost.calibration import Calibration, calibration_from_dict
from holmes.errors import DataError

LogErrors = Callable[[Calibration], Sequence[float]]
"""ln(predicted / measured) of every run under a calibration."""
ROBUST_AT = 0.15
"""Log error beyond which a run counts linearly, not squared."""


@dataclass(frozen=True)
class Coefficient:
    """One number to fit: its dotted place in the calibration (several, joined by ``|``, that
    share it), prior, bounds.

    ``tolerance`` is the log distance from the prior that weighs as much as an error of
    ``ROBUST_AT`` of one run.
    """

    path: str
    prior: float
    low: float
    high: float
    tolerance: float = 1.0


@dataclass(frozen=True)
class Fit:
    """What came out. ``at_bound`` names coefficients that the bounds hold back."""

    calibration: Calibration
    values: Mapping[str, float]
    at_bound: tuple[str, ...]
    errors: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """The relative error that this share of the fitted runs stays under."""
        return float(np.quantile(np.abs(np.expm1(self.errors)), share))


def fit(start: Calibration, coefficients: Sequence[Coefficient], errors: LogErrors) -> Fit:
    """Fit ``coefficients`` of ``start`` to the runs behind ``errors``. Deterministic.

    Raises:
        DataError: a coefficient has no place in the calibration, or a run no error.
    """
    from scipy.optimize import least_squares  # only where something is fitted

    data = start.to_dict()
    for one in coefficients:
        if not one.low <= one.prior <= one.high:
            raise DataError(f"the prior of {one.path} lies outside its bounds", where=one.path)
        placed(data, one.path, one.prior)
    priors = np.log([one.prior for one in coefficients])
    tolerances = np.array([one.tolerance for one in coefficients])

    def calibration(point: np.ndarray[Any, np.dtype[np.float64]]) -> Calibration:
        made = start.to_dict()
        for one, value in zip(coefficients, np.exp(point), strict=True):
            placed(made, one.path, float(value))
        return calibration_from_dict(made)

    def residuals(
        point: np.ndarray[Any, np.dtype[np.float64]],
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        found = np.asarray(errors(calibration(point)), dtype=float)
        if not np.all(np.isfinite(found)):
            raise DataError("a run has no finite predicted or measured time", where="fit")
        return np.concatenate([found, ROBUST_AT * (point - priors) / tolerances])

    low, high = (np.log([getattr(one, side) for one in coefficients]) for side in ("low", "high"))
    done = least_squares(
        residuals,
        priors,
        bounds=(low - 1e-9, high + 1e-9),
        loss="soft_l1",
        f_scale=ROBUST_AT,
        diff_step=1e-3,
        max_nfev=40,
    )
    values = dict(zip([one.path for one in coefficients], np.exp(done.x).tolist(), strict=True))
    at_bound = [
        one.path
        for one, x, a, b in zip(coefficients, done.x, low, high, strict=True)
        if min(x - a, b - x) < 1e-3
    ]
    best = calibration(done.x)
    return Fit(best, values, tuple(at_bound), tuple(float(error) for error in errors(best)))


def placed(data: dict[str, Any], path: str, value: float) -> None:
    """Set a dotted path of a calibration's dictionary.

    Raises:
        DataError: there is no such place.
    """
    for one in path.split("|"):
        *parents, last = one.split(".")
        node: Any = data
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        by_kind = parents[-1:] in (["sustained"], ["attention_of"])
        if not isinstance(node, dict) or (last not in node and not by_kind):
            raise DataError(f"a calibration has no {one}", where=one)
        node[last] = value
