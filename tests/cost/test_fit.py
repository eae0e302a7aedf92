"""Fitting: made-up coefficients come back, undetermined ones stay, nonsense is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from holmes.cost.calibration import DEFAULT, Calibration
from holmes.cost.compute import block_seconds
from holmes.cost.fit import Coefficient, fit
from holmes.errors import DataError
from holmes.hardware.catalogue import resolve
from holmes.hardware.site import Device
from holmes.workload import Block, Segment
from holmes.workload.products import MatrixProduct

A100 = resolve(Device(kind="a100-80g-sxm"))
MATMUL = Coefficient("compute.matmul_fraction", 0.8, 0.5, 1.0)
MEMORY = Coefficient("compute.memory_fraction", 0.8, 0.5, 1.0)
STRAGGLER = Coefficient("compute.straggler", 0.002, 0.0002, 0.01)
TRUTH = replace(
    DEFAULT, compute=replace(DEFAULT.compute, matmul_fraction=0.93, memory_fraction=0.7)
)


def block(size: int, bytes_: float) -> Block:
    product = MatrixProduct(size, size, size)
    inner = (
        Segment("product", product.flops, 0.0, products=(product,)),
        Segment("light", 0.0, bytes_),
    )
    return Block("b", "transformer", 1, 1, inner, {"none": 1.0, "full": 1.0}, 1.0)


BLOCKS = [block(size, bytes_) for size in (4096, 8192) for bytes_ in (1e8, 5e9)]


def seconds(calibration: Calibration) -> list[float]:
    return [block_seconds(one, A100, calibration, 1).forward for one in BLOCKS]


def errors(calibration: Calibration) -> Sequence[float]:
    pairs = zip(seconds(calibration), seconds(TRUTH), strict=True)
    return [math.log(found / true) for found, true in pairs]


def test_coefficients_that_made_the_runs_come_back() -> None:
    weak = [replace(one, tolerance=100.0) for one in (MATMUL, MEMORY, STRAGGLER)]
    found = fit(DEFAULT, weak, errors)
    assert found.values["compute.matmul_fraction"] == pytest.approx(0.93, rel=0.01)
    assert found.values["compute.memory_fraction"] == pytest.approx(0.7, rel=0.01)
    assert found.values["compute.straggler"] == pytest.approx(0.002, rel=0.01)
    assert found.calibration.compute.matmul_fraction == found.values["compute.matmul_fraction"]
    assert max(map(abs, found.errors)) < 0.01 and found.quantile(0.9) < 0.01
    assert not found.at_bound


def test_a_bound_that_holds_a_coefficient_back_is_named() -> None:
    found = fit(DEFAULT, [replace(MATMUL, high=0.85, tolerance=100.0)], errors)
    assert found.at_bound == ("compute.matmul_fraction",)


@pytest.mark.parametrize("path", ["compute.speed", "network.pigeon.efficiency", "nothing"])
def test_a_coefficient_without_a_place_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="has no"):
        fit(DEFAULT, [replace(MATMUL, path=path)], errors)


def test_a_prior_outside_its_bounds_and_errors_without_a_value_are_refused() -> None:
    with pytest.raises(DataError, match="outside its bounds"):
        fit(DEFAULT, [replace(MATMUL, prior=2.0)], errors)
    with pytest.raises(DataError, match="no finite"):
        fit(DEFAULT, [MATMUL], lambda calibration: [math.nan])
