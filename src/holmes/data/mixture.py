"""Several texts mixed by weight: which of them gives the n-th sample, as a function of n alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from holmes.data.tokens import Tokens
from holmes.errors import ConfigError

ROUND = 1000
"""Samples over which every text gets exactly its share, to the nearest sample."""


@dataclass(frozen=True)
class Mixture:
    """Tokens of several texts and the share of the samples that each gives.

    Of every ``ROUND`` samples text i gives a fixed number, in an order drawn from (seed,
    number of the round). So the place in every text follows from the number of samples seen.

    Raises:
        ConfigError: a weight so small that its text would never be read.
    """

    parts: tuple[Tokens, ...]
    weights: tuple[float, ...] = (1.0,)
    _rounds: dict[tuple[int, int], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for index, quota in enumerate(self.quotas):
            if quota == 0:
                raise ConfigError(
                    f"text {index} of the mixture would never be read",
                    where="data.source",
                    why=f"its weight is {self.weights[index]:g} of {sum(self.weights):g}, less "
                    f"than one sample in {ROUND}",
                )

    @property
    def digest(self) -> str:
        """Names tokens and weights; of one text alone its own digest."""
        if len(self.parts) == 1:
            return self.parts[0].digest
        text = repr([(part.digest, quota) for part, quota in self._both()])
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def quotas(self) -> tuple[int, ...]:
        """Samples of each text in a round: largest remainders first."""
        exact = [ROUND * weight / sum(self.weights) for weight in self.weights]
        found = [int(share) for share in exact]
        by_rest = sorted(range(len(exact)), key=lambda i: (found[i] - exact[i], i))
        for index in by_rest[: ROUND - sum(found)]:
            found[index] += 1
        return tuple(found)

    def deal(self, number: int, seed: int) -> tuple[int, int]:
        """(text, its own running number) of sample ``number``."""
        if len(self.parts) == 1:
            return 0, number
        turn, place = divmod(number, ROUND)
        order, before = self._round(turn, seed)
        part = int(order[place])
        return part, turn * self.quotas[part] + int(before[place])

    def _round(self, turn: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The text of each sample of a round, and how many of the same came before it there."""
        key = (turn, seed)
        if key not in self._rounds:
            if len(self._rounds) >= 2:
                self._rounds.pop(min(self._rounds))
            generator = np.random.Generator(np.random.PCG64([seed, turn, len(self.parts)]))
            order = generator.permutation(np.repeat(np.arange(len(self.parts)), self.quotas))
            before = np.zeros_like(order)
            for part in range(len(self.parts)):
                mine = order == part
                before[mine] = np.arange(mine.sum())
            self._rounds[key] = order, before
        return self._rounds[key]

    def _both(self) -> Sequence[tuple[Tokens, int]]:
        return list(zip(self.parts, self.quotas, strict=True))
