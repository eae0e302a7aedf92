"""What is known of a schedule without its actions: planner and closed forms read it here.

Each generator has its form beside it; :data:`holmes.schedule.generate.FORMS` lists them by
name. p are pipeline ranks, s a rank, m micro-batches, v virtual stages per rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from holmes.schedule.instruction import Schedule
from holmes.schedule.timeline import Durations

ScheduleName = Literal["gpipe", "1f1b", "interleaved", "zero-bubble", "looped-bfs"]


@dataclass(frozen=True)
class Level:
    """Stages ``[start:stop:step]`` run one action; ``edge`` is the stage for which it is the
    first forward or the last backward, if any."""

    down: bool
    start: int
    stop: int
    step: int
    edge: int | None


def common_bubble(schedule: Schedule, durations: Durations) -> float:
    """(p - 1) (f + b), with f and b of one micro-batch on one virtual stage."""
    return (schedule.stages - 1) * (durations.forward + durations.backward)


@dataclass(frozen=True)
class Form:
    """The facts of one schedule.

    Attributes:
        make: (p, m, v, extra warm-up) -> the schedule.
        in_flight: (s, p, v) -> micro-batches that rank s holds between forward and backward,
            as whole stages, when there are enough of them; s may be an array.
        fills_after: (p, v) -> micro-batches from which on no rank holds more.
        bubble: time in which a rank runs nothing, equal stages and free transfers.
        loops: whether a rank has several stages; its fill and drain shrink to 1/v of 1F1B's.
        fixed: why the warm-up cannot grow; None where it can.
        whole_rounds: m is a multiple of p.
        breadth_first: all forwards come before any backward.
        splits_backward: the weights' gradients are apart, and fill the bubble.
        levels: (p, m, extras per cut) -> its actions by levels, each after all those that it
            needs (:mod:`holmes.simulate.wavefront`); None where nobody has written them down.
    """

    name: ScheduleName
    make: Callable[[int, int, int, int | Sequence[int]], Schedule]
    in_flight: Callable[[Any, int, int], Any]
    fills_after: Callable[[int, int], int] | None
    bubble: Callable[[Schedule, Durations], float] = common_bubble
    loops: bool = False
    fixed: str | None = None
    whole_rounds: bool = False
    breadth_first: bool = False
    splits_backward: bool = False
    levels: Callable[[int, int, Sequence[int]], Iterator[Level]] | None = None

    def filled_share(self, virtual_stages: int) -> float:
        """The part of 1F1B's fill and drain that is left, before weight gradients.

        Interleaving over v chunks keeps 1/v (Narayanan et al. 2021, section 2.2); the
        breadth-first loop as well (Lamy-Poirier 2022).
        """
        return 1.0 / virtual_stages if self.loops else 1.0

    def extra_in_flight(self, stage: int, extras: Sequence[int]) -> int:
        """What extra warm-up per cut adds to the micro-batches that a rank holds.

        Where weights' gradients wait, the ranks below hold as many more as those above.
        """
        return sum(extras if self.splits_backward else extras[stage:])
