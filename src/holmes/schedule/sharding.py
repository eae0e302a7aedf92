"""Sharding: which of the D ranks that hold the same parameters keeps which part of a bucket.

Weights are divided over the w ranks of an inner group, gradients over the g of a middle one,
optimiser states over all D (or over the g, where the groups are replicas of each other);
w divides g, g divides D. Rank i is member p = i mod w of its inner group, inner group q of
its middle group, and in middle group k:  i = k g + q w + p. The bucket is cut the other way
round, p outermost, so that each part lies inside the one of the level below it:

    weights    [p]          of w parts
    gradients  [p, q]       of g parts
    states     [p, q, k]    of D parts (or [p, q])
"""

from __future__ import annotations

from dataclasses import dataclass

Interval = tuple[int, int]


@dataclass(frozen=True)
class Shards:
    """Over how many of ``members`` ranks each state of a parameter is divided.

    Raises:
        ValueError: when one does not divide the next.
    """

    members: int = 1
    weights: int = 1
    gradients: int = 1
    states: int = 1

    def __post_init__(self) -> None:
        sizes = (self.weights, self.gradients, self.members)
        if self.gradients % self.weights or self.members % self.gradients:
            raise ValueError(f"groups of {sizes} ranks do not nest")

    @property
    def inner(self) -> int:
        """Inner groups in a middle group, r."""
        return self.gradients // self.weights

    @property
    def far(self) -> int:
        """Middle groups."""
        return self.members // self.gradients

    def place(self, index: int) -> tuple[int, int, int]:
        """(p, q, k) of a rank."""
        k, rest = divmod(index, self.gradients)
        q, p = divmod(rest, self.weights)
        return p, q, k

    def weights_of(self, index: int, length: int) -> Interval:
        """The part of a bucket's weights that a rank keeps; ``length`` divides by members."""
        return _part(self.place(index)[0], self.weights, length)

    def gradients_of(self, index: int, length: int) -> Interval:
        """The part of the gradients of a micro-batch that it sums."""
        p, q, _ = self.place(index)
        return _part(p * self.inner + q, self.gradients, length)

    def states_of(self, index: int, length: int) -> Interval:
        """The part that its optimiser updates."""
        p, q, k = self.place(index)
        copies = self.states // self.gradients
        if copies <= 1:
            return self.gradients_of(index, length)
        return _part((p * self.inner + q) * copies + k, self.states, length)

    def counts(self, index: int) -> bool:
        """Whether this copy counts in the norm and is saved: no other replica's does."""
        return self.states > self.gradients or self.place(index)[2] == 0

    @property
    def order(self) -> tuple[int, ...]:
        """By place in a middle group, the part of the gradients that the member sums."""
        return tuple(self.gradients_of(i, self.gradients)[0] for i in range(self.gradients))

    def middle_group(self, index: int) -> tuple[int, ...]:
        """Ranks that reduce the gradients of a micro-batch with this one."""
        return _near(index, self.gradients)

    def inner_group(self, index: int) -> tuple[int, ...]:
        """Ranks that gather weights with this one."""
        return _near(index, self.weights)

    def far_group(self, index: int) -> tuple[int, ...]:
        """Ranks of the other middle groups that keep the same part of the gradients."""
        return tuple(range(index % self.gradients, self.members, self.gradients))

    def side_group(self, index: int) -> tuple[int, ...]:
        """Ranks of this middle group that keep the same part of the weights."""
        first = index - index % self.gradients
        return tuple(range(first + index % self.weights, first + self.gradients, self.weights))


def _part(number: int, parts: int, length: int) -> Interval:
    size = length // parts
    return number * size, (number + 1) * size


def _near(index: int, size: int) -> tuple[int, ...]:
    first = index - index % size
    return tuple(range(first, first + size))
