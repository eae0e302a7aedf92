"""Which tokens a micro-batch holds: a function of seed, step and sample index alone.

World size, placement and data-parallel degree do not enter, so the position in the
data is the number of steps taken, and a run resumes anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from holmes.data.mixture import Mixture
from holmes.data.tokens import Tokens
from holmes.errors import DataError

Ids = npt.NDArray[np.int64]
IGNORED = -100
"""A target that does not count: its token is the first of another document."""


class Batch(NamedTuple):
    """Samples, [samples, sequence] each.

    Attributes:
        tokens: ids.
        targets: the tokens one further on.
        documents: where documents are kept apart, the number of each token's in its sample.
        weight: what the loss, summed over targets that count and divided by all, is
            multiplied with, so that over the whole step it is the mean over those that count.
    """

    tokens: Ids
    targets: Ids
    documents: Ids | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class BatchPlan:
    """The order of samples.

    A text is cut into windows of ``sequence`` + 1 tokens (the last one is the first of
    the next window). Each epoch of it visits every window once, in an order drawn from
    (seed, epoch). Of several texts, :class:`Mixture` says which gives a sample.

    Attributes:
        tokens: the training split, or several of them.
        sequence: tokens of a sample.
        global_batch: samples of one step, over all replicas.
        seed: of the order.
        origin: (step, samples seen before it), where this batch size took over.
        apart: keep the documents of a window apart: batches number them, and the first
            token of a document is no target.

    Raises:
        DataError: when a text is shorter than one sample.
    """

    tokens: Tokens | Mixture
    sequence: int
    global_batch: int
    seed: int = 0
    origin: tuple[int, int] = (0, 0)
    apart: bool = False
    _orders: dict[tuple[int, int], Ids] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _weights: dict[int, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for part in self.mixture.parts:
            _require_window(part, self.sequence, "training")

    @cached_property
    def mixture(self) -> Mixture:
        """The texts; one alone is a mixture of one."""
        return self.tokens if isinstance(self.tokens, Mixture) else Mixture((self.tokens,))

    @property
    def windows(self) -> int:
        """Samples of one epoch of all texts."""
        return sum(_windows(part, self.sequence) for part in self.mixture.parts)

    def samples_before(self, step: int) -> int:
        """Samples that the run has seen before this step."""
        start, seen = self.origin
        return seen + (step - start) * self.global_batch

    def window(self, step: int, sample: int) -> int:
        """The window that sample ``sample`` (0 <= sample < global_batch) of a step reads."""
        return self.locate(step, sample)[1]

    def locate(self, step: int, sample: int) -> tuple[int, int]:
        """(text, window of it) of a sample of a step."""
        part, number = self.mixture.deal(self.samples_before(step) + sample, self.seed)
        epoch, place = divmod(number, _windows(self.mixture.parts[part], self.sequence))
        return part, int(self._order(part, epoch)[place])

    def samples(self, step: int, first: int, last: int) -> Batch:
        """Tokens and targets of samples [first, last) of a step.

        Raises:
            ValueError: when the step has no such samples.
        """
        if not 0 <= first < last <= self.global_batch:
            raise ValueError(f"no samples {first} to {last} in a batch of {self.global_batch}")
        places = [self.locate(step, sample) for sample in range(first, last)]
        batch = read_windows(self.mixture.parts, self.sequence, places)
        return _apart(batch, self.mixture, self._weight(step)) if self.apart else batch

    def position(self, step: int) -> dict[str, Any]:
        """What a checkpoint taken before this step must remember of the data."""
        return {
            "step": step,
            "samples": self.samples_before(step),
            "seed": self.seed,
            "digest": self.mixture.digest,
        }

    def resumed(self, position: dict[str, Any]) -> BatchPlan:
        """This plan from a remembered position on, also with another global batch.

        Raises:
            DataError: when the position is of another text or order.
        """
        for key, mine in (("digest", self.mixture.digest), ("seed", self.seed)):
            if position.get(key) != mine:
                raise DataError(
                    f"the data position is of another {'text' if key == 'digest' else 'order'}",
                    where=f"data.{key}: {position.get(key)!r}, here {mine!r}",
                    next_step="resume with the data.source, vocabulary, held-out fraction "
                    "and seed that the run began with",
                )
        return replace(self, origin=(position["step"], position["samples"]))

    def _weight(self, step: int) -> float:
        """All targets of a step over those that count; kept for its other micro-batches."""
        if step not in self._weights:
            places = [self.locate(step, sample) for sample in range(self.global_batch)]
            parts, end = self.mixture.parts, _end(self.mixture)
            counted = sum(
                int((_window(parts[p], self.sequence, w)[:-1] != end).sum()) for p, w in places
            )
            self._weights.clear()
            self._weights[step] = self.global_batch * self.sequence / counted
        return self._weights[step]

    def _order(self, part: int, epoch: int) -> Ids:
        key = (part, epoch)
        if key not in self._orders:
            # A step touches at most its own epoch and the next.
            old = [(p, e) for p, e in self._orders if p == part and e < epoch - 1]
            for one in old:
                self._orders.pop(one)
            entropy = [self.seed, epoch, part] if part else [self.seed, epoch]
            generator = np.random.Generator(np.random.PCG64(entropy))
            windows = _windows(self.mixture.parts[part], self.sequence)
            self._orders[key] = generator.permutation(windows)
        return self._orders[key]


@dataclass(frozen=True)
class HeldOut:
    """Validation batches: the held-out windows in text order, of several texts in turn.

    Raises:
        DataError: when a held-out text is shorter than one sample.
    """

    tokens: Tokens | Mixture
    sequence: int
    apart: bool = False

    def __post_init__(self) -> None:
        for part in self.mixture.parts:
            _require_window(part, self.sequence, "held-out")

    @cached_property
    def mixture(self) -> Mixture:
        """The held-out texts."""
        return self.tokens if isinstance(self.tokens, Mixture) else Mixture((self.tokens,))

    def rounds(self, samples: int, wanted: int) -> int:
        """How many rounds of ``samples`` samples there are, at least one, at most ``wanted``."""
        windows = sum(_windows(part, self.sequence) for part in self.mixture.parts)
        return min(wanted, max(1, windows // samples))

    def samples(self, first: int, last: int) -> Batch:
        """Samples [first, last); texts with fewer windows than are asked for repeat them."""
        parts = self.mixture.parts
        places = []
        for number in range(first, last):
            turn, part = divmod(number, len(parts))
            places.append((part, turn % _windows(parts[part], self.sequence)))
        batch = read_windows(parts, self.sequence, places)
        if not self.apart:
            return batch
        return _apart(batch, self.mixture, self._weight)

    @cached_property
    def _weight(self) -> float:
        """All targets of the held-out windows over those that count."""
        lengths = [_windows(part, self.sequence) * self.sequence for part in self.mixture.parts]
        pairs = zip(self.mixture.parts, lengths, strict=True)
        counted = sum(int((part.ids[:n] != part.end).sum()) for part, n in pairs)
        return sum(lengths) / counted


def read_windows(
    parts: Sequence[Tokens], sequence: int, places: Sequence[tuple[int, int]]
) -> Batch:
    """The samples at these (text, window) places."""
    rows = np.stack([_window(parts[part], sequence, window) for part, window in places])
    rows = rows.astype(np.int64)
    return Batch(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]))


def _apart(batch: Batch, mixture: Mixture, weight: float) -> Batch:
    """A batch with its documents numbered; behind a closing mark nothing is to be predicted."""
    closing = batch.tokens == _end(mixture)
    documents = np.zeros_like(batch.tokens)
    documents[:, 1:] = np.cumsum(closing[:, :-1], axis=1)
    return Batch(batch.tokens, np.where(closing, IGNORED, batch.targets), documents, weight)


def _end(mixture: Mixture) -> int:
    """The id that closes a document; one tokenizer made all texts of a mixture."""
    return mixture.parts[0].end


def _window(tokens: Tokens, sequence: int, window: int) -> npt.NDArray[Any]:
    return tokens.ids[window * sequence : (window + 1) * sequence + 1]


def _windows(tokens: Tokens, sequence: int) -> int:
    return (len(tokens) - 1) // sequence


def _require_window(tokens: Tokens, sequence: int, what: str) -> None:
    if len(tokens) <= sequence:
        raise DataError(
            f"the {what} text has {len(tokens)} tokens, too few for one sample",
            where="data.source",
            why=f"a sample of model.sequence={sequence} needs {sequence + 1} tokens",
            next_step="use more text or a shorter model.sequence",
        )
