"""Chunks: how the tokens of a sample are dealt over the ranks of a context group.

Ring attention takes them folded: of 2N pieces rank r has the r-th and the r-th from the
end, so that under a causal mask all ranks have the same work. The other algorithms
take one run of tokens per rank. Nothing needs to divide: lengths differ by at most one
piece, and what a rank lacks it holds as padding behind its tokens, so that all tensors
of a group have one shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from holmes.plan.layout import ContextAlgorithm

Range = tuple[int, int]
"""Half-open interval of positions in the sample."""


@dataclass(frozen=True)
class Chunks:
    """One sample over N ranks.

    Attributes:
        length: tokens of the sample.
        ranges: of each rank, ascending.
        held: by rank, tokens of its tensors: its own and the padding behind them.
    """

    length: int
    ranges: tuple[tuple[Range, ...], ...]
    held: tuple[int, ...]

    @property
    def ranks(self) -> int:
        return len(self.ranges)

    @cached_property
    def own(self) -> tuple[int, ...]:
        """By rank, its tokens without padding."""
        return tuple(sum(stop - start for start, stop in mine) for mine in self.ranges)

    def positions(self, rank: int) -> list[int]:
        """Place in the sample of each token that a rank holds; padding repeats the first."""
        found = [position for start, stop in self.ranges[rank] for position in range(start, stop)]
        return found + [0] * (self.held[rank] - len(found))


def chunk_width(length: int, ranks: int, multiple: int = 1) -> int:
    """Tokens that each of N ranks holds of a sample, padding included.

    Args:
        multiple: what it must divide by: tensor ranks split a chunk once more.
    """
    return -(-length // (ranks * multiple)) * multiple


def deal(
    length: int, ranks: int, algorithm: ContextAlgorithm, multiple: int = 1, *, padded: bool = True
) -> Chunks:
    """The chunks of a sample.

    Args:
        padded: every rank holds :func:`chunk_width` tokens; else its own alone.
    """
    if algorithm == "ring":
        pieces = even_ranges(length, 2 * ranks)
        pairs = [(pieces[r], pieces[2 * ranks - 1 - r]) for r in range(ranks)]
    else:
        pairs = [(piece,) for piece in even_ranges(length, ranks)]  # type: ignore[misc]
    ranges = tuple(tuple(one for one in pair if one[0] < one[1]) for pair in pairs)
    width = chunk_width(length, ranks, multiple)
    own = tuple(sum(stop - start for start, stop in mine) for mine in ranges)
    return Chunks(length, ranges, (width,) * ranks if padded else own)


def even_ranges(length: int, parts: int) -> list[Range]:
    """Runs whose lengths differ by at most one, the longer ones first."""
    each, rest = divmod(length, parts)
    sizes = [each + (i < rest) for i in range(parts)]
    return list(pairwise(accumulate(sizes, initial=0)))
