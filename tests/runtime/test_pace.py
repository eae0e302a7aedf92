"""Pace: work takes its processor time over the share, no less."""

from __future__ import annotations

import time

import pytest

from holmes.runtime.pipeline import pace as module
from holmes.runtime.pipeline.pace import Pace


class Clocks:
    """Stands for the ``time`` module: work moves both clocks, a wait only the wall's."""

    def __init__(self) -> None:
        self.wall = self.busy = 0.0
        self.pauses: list[float] = []

    def perf_counter(self) -> float:
        return self.wall

    def thread_time(self) -> float:
        return self.busy

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def work(self, seconds: float, waiting: float = 0.0) -> None:
        self.busy += seconds
        self.wall += seconds + waiting


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(module, "time", clocks)
    return clocks


def test_work_takes_its_processor_time_over_the_share() -> None:
    start, spent = time.perf_counter(), time.thread_time()
    with Pace(0.25):
        while time.thread_time() - spent < 0.01:
            pass
    assert time.perf_counter() - start >= 0.95 * 0.01 / 0.25


def test_the_pause_is_what_is_left(clocks: Clocks) -> None:
    with Pace(0.25):
        clocks.work(1.0)
    with Pace(0.25):
        clocks.work(1.0, waiting=2.0)
    assert clocks.pauses == [3.0, 1.0]


def test_late_work_and_unpaced_work_do_not_pause(clocks: Clocks) -> None:
    with Pace(0.25):
        clocks.work(1.0, waiting=5.0)
    with Pace(None):
        clocks.work(1.0)
    assert clocks.pauses == []


def test_an_error_passes_without_a_pause(clocks: Clocks) -> None:
    with pytest.raises(KeyError), Pace(0.25):
        clocks.work(1.0)
        raise KeyError("x")
    assert clocks.pauses == []


def test_a_collective_inside_the_work_is_neither_paced_nor_counted(clocks: Clocks) -> None:
    pace = Pace(0.5)
    with pace:
        clocks.work(1.0)
        with pace.outside():
            clocks.work(0.25, waiting=5.0)
        clocks.work(2.0)
    assert clocks.pauses == [1.0, 2.0]
    assert pace.busy_seconds == 3.0
