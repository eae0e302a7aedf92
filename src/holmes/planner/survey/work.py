"""A partition of the blocks over the stages, for every choice, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from holmes.planner.survey.tables import Floats


@dataclass(frozen=True)
class Work:
    """A partition and what follows from it, [row, stage] but for ``slowest`` [row].

    ``exposed`` is the gradient exchange and optimiser that nothing hides, seconds;
    ``steps`` the optimiser alone.
    """

    slowest: Floats
    blocks: Floats
    forward: Floats
    backward: Floats
    exposed: Floats
    steps: Floats

    def rows(self, index: NDArray[np.int64]) -> Work:
        """The work of these rows."""
        return Work(*(values[index] for values in self._all))

    def put(self, rows: NDArray[np.bool_], other: Work) -> Work:
        """This work with some rows taken from another."""
        return Work(*(_put(a, rows, b) for a, b in zip(self._all, other._all, strict=True)))

    def longer_backward(self, more: Floats) -> Work:
        """This work with these seconds added to the backward of a stage."""
        backward = self.backward + more
        before, after = (
            (self.forward + seconds).max(axis=1) for seconds in (self.backward, backward)
        )
        return replace(self, backward=backward, slowest=self.slowest + (after - before))

    @property
    def _all(self) -> tuple[Floats, ...]:
        return (
            self.slowest,
            self.blocks,
            self.forward,
            self.backward,
            self.exposed,
            self.steps,
        )


def bound(work: Work, microbatches: Floats) -> Floats:
    """What a partition decides of the step, [row]."""
    drained = np.cumsum(work.backward, axis=1) - work.backward
    found: Floats = microbatches * work.slowest + np.max(work.exposed - drained, axis=1)
    return found


def _put(values: Floats, rows: NDArray[np.bool_], others: Floats) -> Floats:
    found = values.copy()
    found[rows] = others
    return found
