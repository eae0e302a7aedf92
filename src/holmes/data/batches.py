"""Which tokens a micro-batch holds: a function of seed, step and sample index alone.

World size, placement and data-parallel degree do not enter, so the position in the
data is the number of steps taken, and a run resumes anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from holmes.data.tokens import Tokens
from holmes.errors import ConfigError, DataError

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""(tokens, targets), both [samples, sequence]; targets are the tokens one further on."""


@dataclass(frozen=True)
class BatchPlan:
    """The order of samples.

    The text is cut into windows of ``sequence`` + 1 tokens (the last one is the
    first of the next window). Each epoch visits every window once, in an order
    drawn from (seed, epoch).

    Attributes:
        tokens: the training split.
        sequence: tokens of a sample.
        global_batch: samples of one step, over all replicas.
        seed: of the order.
        origin: (step, samples seen before it), where this batch size took over.

    Raises:
        DataError: when the text is shorter than one sample.
    """

    tokens: Tokens
    sequence: int
    global_batch: int
    seed: int = 0
    origin: tuple[int, int] = (0, 0)
    _orders: dict[int, npt.NDArray[np.int64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        _require_window(self.tokens, self.sequence, "training")

    @property
    def windows(self) -> int:
        """Samples of one epoch."""
        return (len(self.tokens) - 1) // self.sequence

    def samples_before(self, step: int) -> int:
        """Samples that the run has seen before this step."""
        start, seen = self.origin
        return seen + (step - start) * self.global_batch

    def window(self, step: int, sample: int) -> int:
        """The window that sample ``sample`` (0 <= sample < global_batch) of a step reads."""
        epoch, place = divmod(self.samples_before(step) + sample, self.windows)
        return int(self._order(epoch)[place])

    def micro_batch(
        self, step: int, data_index: int, microbatch: int, dp: int, micro: int
    ) -> Batch:
        """Tokens and targets of one micro-batch of one data-parallel replica.

        Replica d takes samples [d, d + 1) x global_batch / dp of the step, in order.

        Raises:
            ConfigError: when the degrees do not divide the batch.
        """
        first = self.first_sample(data_index, microbatch, dp, micro)
        windows = [self.window(step, first + i) for i in range(micro)]
        return read_windows(self.tokens, self.sequence, windows)

    def first_sample(self, data_index: int, microbatch: int, dp: int, micro: int) -> int:
        """The first sample, within its step, of a micro-batch; ``micro`` of them follow.

        Raises:
            ConfigError: when the degrees do not divide the batch.
        """
        share, rest = divmod(self.global_batch, dp)
        if rest or share % micro:
            raise ConfigError(
                f"a global batch of {self.global_batch} does not divide into {dp} replicas "
                f"of micro-batches of {micro}",
                where="batch",
                next_step="make batch.global a multiple of batch.micro x data",
            )
        if not (0 <= data_index < dp and 0 <= microbatch < share // micro):
            raise ValueError(f"no micro-batch {microbatch} of replica {data_index}")
        return data_index * share + microbatch * micro

    def position(self, step: int) -> dict[str, Any]:
        """What a checkpoint taken before this step must remember of the data."""
        return {
            "step": step,
            "samples": self.samples_before(step),
            "seed": self.seed,
            "digest": self.tokens.digest,
        }

    def resumed(self, position: dict[str, Any]) -> BatchPlan:
        """This plan from a remembered position on, also with another global batch.

        Raises:
            DataError: when the position is of another text or order.
        """
        for key, mine in (("digest", self.tokens.digest), ("seed", self.seed)):
            if position.get(key) != mine:
                raise DataError(
                    f"the data position is of another {'text' if key == 'digest' else 'order'}",
                    where=f"data.{key}: {position.get(key)!r}, here {mine!r}",
                    next_step="resume with the data.source, vocabulary, held-out fraction "
                    "and seed that the run began with",
                )
        return replace(self, origin=(position["step"], position["samples"]))

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._orders:
            if len(self._orders) >= 2:  # a step touches at most its own epoch and the next
                self._orders.pop(min(self._orders))
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            self._orders[epoch] = generator.permutation(self.windows)
        return self._orders[epoch]


@dataclass(frozen=True)
class HeldOut:
    """Validation batches: the held-out windows in text order.

    Raises:
        DataError: when the held-out text is shorter than one sample.
    """

    tokens: Tokens
    sequence: int

    def __post_init__(self) -> None:
        _require_window(self.tokens, self.sequence, "held-out")

    def batches(self, micro: int, wanted: int) -> int:
        """How many batches of ``micro`` samples there are, at most ``wanted``."""
        return min(wanted, max(1, (len(self.tokens) - 1) // self.sequence // micro))

    def batch(self, index: int, micro: int) -> Batch:
        """Batch ``index``; a text with fewer than ``micro`` windows repeats them."""
        windows = (len(self.tokens) - 1) // self.sequence
        chosen = [(index * micro + i) % windows for i in range(micro)]
        return read_windows(self.tokens, self.sequence, chosen)


def read_windows(tokens: Tokens, sequence: int, windows: list[int]) -> Batch:
    """The samples at these window numbers."""
    rows = np.stack([tokens.ids[w * sequence : (w + 1) * sequence + 1] for w in windows])
    rows = rows.astype(np.int64)
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])


def _require_window(tokens: Tokens, sequence: int, what: str) -> None:
    if len(tokens) <= sequence:
        raise DataError(
            f"the {what} text has {len(tokens)} tokens, too few for one sample",
            where="data.source",
            why=f"a sample of model.sequence={sequence} needs {sequence + 1} tokens",
            next_step="use more text or a shorter model.sequence",
        )
