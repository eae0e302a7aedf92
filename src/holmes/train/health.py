"""Health: steps whose gradients are no numbers or far too large, and replicas that differ.

All ranks see the same global norm, so all skip the same steps without a word. Which rank it
came from is told only after a step was skipped. Three in a row, or replicas that should be
equal and are not, end the generation: its successor goes back to the last checkpoint and
computes the suspect steps again.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from holmes.errors import RankDiedError
from holmes.events.jsonl import append_objects
from holmes.runtime.groups import Groups
from holmes.runtime.sharding.optimizer import ShardedAdamW
from holmes.train.recorder import gather_json

RECORD = "health.jsonl"
MOST_SKIPPED = 3
BASELINE_STEPS = 20
LEAST_STEPS = 8


class Health:
    """Judges the steps of one rank; every rank has one and comes to the same conclusions.

    Args:
        spike_factor: skip a step whose norm is this many times the median of the last ones;
            0: never.
    """

    def __init__(
        self, run: Path, groups: Groups, optimizer: ShardedAdamW, spike_factor: float
    ) -> None:
        self._path = run / RECORD
        self._groups = groups
        self._optimizer = optimizer
        self._factor = spike_factor
        self._norms: deque[float] = deque(maxlen=BASELINE_STEPS)
        self._skipped = 0

    @property
    def norms(self) -> tuple[float, ...]:
        """The last norms that were applied; a checkpoint carries them."""
        return tuple(self._norms)

    def recall(self, norms: Sequence[float]) -> None:
        """Go on with the norms of before a restart, so that a spike is one here as it was there."""
        self._norms = deque(norms, maxlen=BASELINE_STEPS)

    def before(self) -> None:
        """Tell the optimiser what norm it may apply in the next step."""
        limit = math.inf
        if self._factor and len(self._norms) >= LEAST_STEPS:
            limit = self._factor * median(self._norms)
        self._optimizer.set_norm_limit(limit)

    def after(self, step: int, norm: float, *, applied: bool, rescaled: bool = False) -> str | None:
        """Judge a step; what is to be said of it, or None.

        Args:
            rescaled: it was skipped because the loss scale of fp16 was too large: no fault.

        Raises:
            RankDiedError: on every rank, when three in a row were skipped.
        """
        if applied:
            self._skipped = 0
            self._norms.append(norm)
            return None
        if rescaled:
            text = f"step {step} was skipped: fp16 overflowed, the loss scale is halved"
            self._write({"step": step, "kind": "rescaled", "text": text})
            return text
        self._skipped += 1
        suspects = gather_json(self._groups, self._optimizer.suspects())
        culprit = culprit_of(suspects)
        what = "is not finite" if not math.isfinite(norm) else f"is {norm:.3g}, far above the usual"
        where = "" if culprit is None else f", from {culprit[1]} of rank {culprit[0]}"
        text = f"step {step} was skipped: the gradient norm {what}{where}"
        self._write({"step": step, "kind": "skipped", "text": text, **_place(culprit)})
        if self._skipped >= MOST_SKIPPED:
            raise RankDiedError(
                f"{self._skipped} steps in a row were skipped",
                where=text,
                why="parameters that cannot be trained further, or a device that computes wrongly",
                next_step="if it happens again: a lower learning rate, or without that device",
            )
        return text

    def compare_replicas(self, step: int) -> None:
        """Compare parameters that replicas hold in common; bring them up to date first.

        Raises:
            RankDiedError: on every rank, when they are not equal; names the odd one where a
                majority of the replicas agrees.
        """
        said = gather_json(self._groups, self._optimizer.checksums())
        odd = odd_ones(said)
        if not odd:
            return
        ranks = ", ".join(str(rank) for rank in odd)
        text = f"after {step} steps the parameters of rank {ranks} differ from its replicas'"
        culprit = (odd[0], "the parameters") if len(odd) == 1 else None
        self._write({"step": step, "kind": "corrupt", "text": text, **_place(culprit)})
        raise RankDiedError(
            f"replicas differ: rank {ranks}",
            where=text,
            why="a device computed or stored something wrong, which nothing else would show",
            next_step="the steps since the last checkpoint are computed again; test the device",
        )

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._groups.rank == 0:
            append_objects(self._path, [dict(line)])


def culprit_of(suspects: Sequence[Sequence[str]]) -> tuple[int, str] | None:
    """The only rank with suspect tensors of its own, and the first of them; else None."""
    found = [(rank, names) for rank, names in enumerate(suspects) if names]
    return (found[0][0], found[0][1][0]) if len(found) == 1 else None


def odd_ones(said: Sequence[Mapping[str, int]]) -> list[int]:
    """Ranks whose checksum of a common name is not that of most; all of them in a draw."""
    odd: set[int] = set()
    for name in sorted({name for one in said for name in one}):
        holders = {rank: one[name] for rank, one in enumerate(said) if name in one}
        counts = Counter(holders.values()).most_common()
        if len(counts) < 2:
            continue
        draw = counts[0][1] == counts[1][1]
        odd |= {rank for rank, value in holders.items() if draw or value != counts[0][0]}
    return sorted(odd)


def _place(culprit: tuple[int, str] | None) -> dict[str, Any]:
    return (
        {"rank": None, "tensor": None}
        if culprit is None
        else dict(zip(("rank", "tensor"), culprit, strict=True))
    )
