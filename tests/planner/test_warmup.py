"""Extra warm-up: the rule, its memory bound, and how the simulator settles it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holmes.planner.warmup import Extras, settle, warmup_of_cuts, within_memory


@pytest.mark.parametrize(
    ("cut", "microbatches", "expected"),
    [
        (0.0, 8, 0),
        (0.004, 8, 0),  # under 1 % of the step
        (0.01, 8, 1),
        (0.5, 8, 1),  # 2 d = t: one extra hides it
        (0.51, 8, 2),
        (1.6, 8, 4),
        (9.0, 8, 4),  # the cut limits the pipeline, more in flight does not help
        (0.5, 1, 0),  # nothing to keep in flight
    ],
)
def test_rule_per_cut(cut: float, microbatches: int, expected: int) -> None:
    assert warmup_of_cuts((cut,), 1.0, microbatches) == (expected,)


def test_only_slow_cuts_get_extra() -> None:
    assert warmup_of_cuts((0.0, 0.3, 0.0), 1.0, 16) == (0, 1, 0)


def test_memory_takes_from_the_widest_cut_first() -> None:
    assert within_memory((1, 3), lambda extras: sum(extras) <= 2) == (1, 1)
    assert within_memory((1, 3), lambda extras: True) == (1, 3)
    assert within_memory((1, 1), lambda extras: False) == (0, 0)


def seconds(table: dict[int, float]) -> Callable[[Extras], float]:
    """Step time by the extra of the one cut; more than the table has changes nothing."""
    return lambda extras: table[min(extras[0], max(table))]


def test_settles_on_the_smallest_that_is_good_enough() -> None:
    table = {0: 1.3, 1: 1.08, 2: 1.075, 3: 1.07}
    for start in range(4):
        assert settle((start,), seconds(table), lambda _: True, 7) == (1,)


def test_goes_up_while_it_pays_and_memory_allows() -> None:
    table = {0: 1.5, 1: 1.3, 2: 1.1, 3: 1.0}
    assert settle((0,), seconds(table), lambda _: True, 7) == (3,)
    assert settle((0,), seconds(table), lambda extras: extras[0] <= 2, 7) == (2,)
    assert settle((0,), seconds(table), lambda _: True, 1) == (1,)
