"""Who sends what to whom between two stages: overlaps of the intervals that their ranks hold.

A boundary is [samples, tokens, hidden]. The samples of a micro-batch are divided over the
replicas of a stage, the tokens of each sample over its tensor ranks. Where two stages are
divided differently, each rank sends every part of its own to the rank that holds that part on
the other side: every byte crosses once, from and to all ranks. With equal division that is one
transfer per rank. Tensor ranks that each send their part are the scatter/gather of Megatron-LM
(SC21, section 4.1); gradients go the same ways back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from holmes.schedule.instruction import Part, PeerSlice

Interval = tuple[int, int]


@dataclass(frozen=True)
class Division:
    """How the ranks of a stage divide a boundary: replicas slowest, then context, then tensor.

    Attributes:
        samples: of a micro-batch, on each replica in turn.
        tensor: tensor ranks, each with an equal part of the tokens.
        context: context ranks, which pass their tokens on to their like.
        whole: every tensor rank holds all tokens, and passes them on to its like.
    """

    samples: tuple[int, ...]
    tensor: int = 1
    context: int = 1
    whole: bool = False

    @property
    def replicas(self) -> list[Interval]:
        """The samples of each replica, counted from the first of the micro-batch."""
        return list(pairwise(accumulate(self.samples, initial=0)))

    def position(self, replica: int, context: int, tensor: int) -> int:
        """The place of a rank among those of its stage."""
        return (replica * self.context + context) * self.tensor + tensor


@dataclass(frozen=True)
class Transfer:
    """What one rank of the upper stage passes to one of the lower, by their places.

    ``sent`` and ``placed`` are byte intervals of the flat boundary buffers of the two, equal
    in number and lengths.
    """

    source: int
    target: int
    sent: tuple[Interval, ...]
    placed: tuple[Interval, ...]

    @property
    def bytes_(self) -> int:
        return sum(stop - start for start, stop in self.sent)


def transfers(upper: Division, lower: Division, sample_bytes: float) -> tuple[Transfer, ...]:
    """All transfers of one micro-batch over a cut, by source, then target.

    Args:
        sample_bytes: of the boundary of one sample, all its tokens.

    Raises:
        ValueError: the two do not hold the same samples, or divide what must be divided alike.
    """
    if sum(upper.samples) != sum(lower.samples):
        raise ValueError(f"{sum(upper.samples)} samples above a cut, {sum(lower.samples)} below")
    alike = (upper.context, upper.whole) == (lower.context, lower.whole)
    if not alike or (upper.whole and upper.tensor != lower.tensor):
        raise ValueError("context ranks, and tensor ranks that hold all tokens, need their like")
    parts = math.lcm(upper.tensor, lower.tensor)
    unit = sample_bytes / upper.context / parts
    found = []
    for a, b, first, last in _overlaps(upper.replicas, lower.replicas):
        above, below = upper.replicas[a][0], lower.replicas[b][0]
        for context in range(upper.context):
            for t, u, mine, theirs in _columns(upper, lower, parts):
                low, high = max(mine[0], theirs[0]), min(mine[1], theirs[1])
                found.append(
                    Transfer(
                        upper.position(a, context, t),
                        lower.position(b, context, u),
                        _slices((first - above, last - above), (low, high), mine, unit),
                        _slices((first - below, last - below), (low, high), theirs, unit),
                    )
                )
    return tuple(sorted(found, key=lambda transfer: (transfer.source, transfer.target)))


Parts = tuple[tuple[Part, ...], ...]
"""Of each rank of a stage, what it has in common with ranks across a cut."""


def parts_of(
    found: Iterable[Transfer], upper: Sequence[int], lower: Sequence[int]
) -> tuple[Parts, Parts]:
    """The outputs of the upper stage's ranks, and the inputs of the lower one's.

    Args:
        upper, lower: the logical ranks of the two stages, in rank order.
    """
    outputs: list[list[Part]] = [[] for _ in upper]
    inputs: list[list[Part]] = [[] for _ in lower]
    for transfer in found:
        a, b = upper[transfer.source], lower[transfer.target]
        group = group_name(a, b)
        sent, placed = transfer.sent, transfer.placed
        outputs[transfer.source].append(Part(group, tuple(PeerSlice(b, *one) for one in sent)))
        inputs[transfer.target].append(Part(group, tuple(PeerSlice(a, *one) for one in placed)))
    return tuple(map(tuple, outputs)), tuple(map(tuple, inputs))


def group_name(above: int, below: int) -> str:
    """The group of two ranks that pass activations and gradients."""
    return f"pipeline.{above}-{below}"


def _overlaps(upper: list[Interval], lower: list[Interval]) -> Iterator[tuple[int, int, int, int]]:
    """(replica above, replica below, first sample, last) of all that share samples."""
    a = b = 0
    while a < len(upper) and b < len(lower):
        first, last = max(upper[a][0], lower[b][0]), min(upper[a][1], lower[b][1])
        if first < last:
            yield a, b, first, last
        if upper[a][1] <= lower[b][1]:
            a += 1
        else:
            b += 1


def _columns(
    upper: Division, lower: Division, parts: int
) -> Iterator[tuple[int, int, Interval, Interval]]:
    """Tensor ranks above and below that share tokens, with the parts that each holds."""
    for t in range(upper.tensor):
        for u in range(lower.tensor):
            if upper.whole:
                if t == u:
                    yield t, u, (0, parts), (0, parts)
                continue
            mine, theirs = _held(t, upper.tensor, parts), _held(u, lower.tensor, parts)
            if max(mine[0], theirs[0]) < min(mine[1], theirs[1]):
                yield t, u, mine, theirs


def _held(index: int, ranks: int, parts: int) -> Interval:
    return index * parts // ranks, (index + 1) * parts // ranks


def _slices(
    samples: Interval, tokens: Interval, held: Interval, unit: float
) -> tuple[Interval, ...]:
    """Byte intervals of a rank's buffer: one where it passes all its tokens on, else one
    for each sample."""
    width = held[1] - held[0]
    if tokens == held:
        return ((int(samples[0] * width * unit), int(samples[1] * width * unit)),)
    low, high = tokens[0] - held[0], tokens[1] - held[0]
    return tuple(
        (int((sample * width + low) * unit), int((sample * width + high) * unit))
        for sample in range(*samples)
    )
