"""What changed within a run: its late steps against its early ones, by medians and MADs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from holmes.diagnose.edges import Sample

WARM_UP = 2
LEAST_STEPS = 8
WINDOW = 20
SLOWER = 1.25
"""A quantity counts as slower from here on, whatever its noise."""
ERRORS = 3.0
"""Standard errors of the early noise."""
SIGMA = 1.4826
"""Standard deviations of a normal distribution per MAD."""
MEDIAN = 1.2533
"""Standard error of a median over that of a mean, times the root of the count."""


@dataclass(frozen=True)
class Windows:
    """The steps compared."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """Median late over median early time, of ``count`` messages or computations.

    ``noise``: MAD of the early ones, relative, of which a median of many has less; ``steps``
    tells how many, since what happens within one step is not independent.
    ``stalls``: share of late messages that took at least :data:`STALL_SECONDS` more than usual.
    """

    ratio: float
    noise: float
    count: int
    steps: int
    stalls: float = 0.0

    @property
    def slower(self) -> bool:
        """More than :data:`SLOWER`, and more than the noise of the median allows."""
        noise = SIGMA * MEDIAN * self.noise / math.sqrt(self.steps)
        return self.ratio > max(SLOWER, 1.0 + ERRORS * noise)


STALL_SECONDS = 0.15
"""TCP sends a lost segment again after 0.2 s at the earliest, where nothing follows it."""


def windows(steps: Sequence[int]) -> Windows | None:
    """The first and the last third, at most :data:`WINDOW` steps each; None if too few."""
    warm = list(steps)[WARM_UP:]
    if len(warm) < LEAST_STEPS:
        return None
    size = min(WINDOW, max(4, len(warm) // 3))
    return Windows(tuple(warm[:size]), tuple(warm[-size:]))


def change_of(samples: Iterable[Sample], compared: Windows, least: float = 0.0) -> Change | None:
    """How a set of samples changed, each key compared with itself.

    Args:
        least: keys that usually take fewer seconds are left out.

    Returns:
        None where no key was seen in both windows.
    """
    before, after = set(compared.before), set(compared.after)
    early: dict[object, list[float]] = defaultdict(list)
    late: dict[object, list[float]] = defaultdict(list)
    for key, step, seconds in samples:
        if step in before:
            early[key].append(seconds)
        elif step in after:
            late[key].append(seconds)
    usual = {key: median(times) for key, times in early.items() if median(times) >= least}
    ratios = [value / usual[key] for key in usual for value in late.get(key, ())]
    if not ratios:
        return None
    spread = median(abs(value / usual[key] - 1.0) for key in usual for value in early[key])
    waits = [value - usual[key] for key in usual for value in late.get(key, ())]
    stalls = sum(wait > STALL_SECONDS for wait in waits) / len(waits)
    return Change(median(ratios), spread, len(ratios), len(compared.after), stalls)
