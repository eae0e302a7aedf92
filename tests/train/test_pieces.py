"""Learning rate, traced steps, comparison of parameters."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from holmes.job.sections import Optimizer
from holmes.train.compare import FURTHEST, compare_parameters, relative_difference
from holmes.train.learning_rate import learning_rate
from holmes.train.recorder import traced_steps


def test_rate_rises_to_lr_and_falls_to_min_lr() -> None:
    settings = Optimizer(lr=1.0, min_lr=0.1, warmup_steps=4)
    rates = [learning_rate(step, 20, settings) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[12] == pytest.approx(0.55)
    assert rates[20] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))


def test_constant_rate_stays() -> None:
    settings = Optimizer(lr=0.5, decay="constant")
    assert {learning_rate(step, 9, settings) for step in range(30)} == {0.5}


@pytest.mark.parametrize(
    ("stop", "count", "steps"),
    [(20, 3, range(3, 6)), (5, 3, range(2, 5)), (2, 3, range(0, 2)), (20, 0, range(3, 3))],
)
def test_traced_steps_come_after_the_warm_up(stop: int, count: int, steps: range) -> None:
    assert traced_steps(0, stop, count) == steps


def test_relative_difference() -> None:
    a = torch.tensor([2.0, -4.0])
    assert relative_difference(a, a.clone()) == 0.0
    assert relative_difference(a, torch.tensor([2.0, -3.0])) == 0.25
    assert relative_difference(a, torch.tensor([2.0, math.nan])) == FURTHEST
    assert relative_difference(a, torch.zeros(3)) == FURTHEST


def test_zero_gradient_tensors_stand_apart_and_missing_ones_count() -> None:
    a = {"w": torch.ones(2), "key.bias": torch.ones(1), "gone": torch.ones(1)}
    b = {"w": torch.ones(2), "key.bias": torch.zeros(1)}
    found = compare_parameters(a, b, {"key.bias"})
    assert found["max_relative_difference"] == FURTHEST
    assert found["parameters"][0]["name"] == "gone"
    assert [row["name"] for row in found["zero_gradient_parameters"]] == ["key.bias"]
    assert compare_parameters(b, b)["bit_equal"]
