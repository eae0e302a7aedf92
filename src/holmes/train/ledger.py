"""Ledger: which samples each step consumed, written by the ranks that read them.

``ledger/rank-<r>.jsonl`` gets a line per step from each rank of the first stage. A run that
went back to a checkpoint did some steps again: of each step the latest generation counts,
since what earlier ones did to the parameters after the checkpoint is gone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from holmes.errors import DataError
from holmes.events.jsonl import append_objects, read_objects

FOLDER = "ledger"


class Ledger:
    """The writing side, one per rank that counts.

    Samples are numbers from the begin of the run: step s of a constant global batch B
    consumes B x s up to B x (s + 1).
    """

    def __init__(self, run: Path, rank: int, generation: int) -> None:
        self._path = run / FOLDER / f"rank-{rank}.jsonl"
        self._path.parent.mkdir(exist_ok=True)
        self._generation = generation
        self._samples: set[int] = set()

    def consume(self, samples: Iterable[int]) -> None:
        """These samples enter the current step."""
        self._samples.update(samples)

    def step(self, number: int) -> None:
        """The step is complete.

        Raises:
            WriteError: the line cannot be written.
        """
        line = {"generation": self._generation, "step": number, "samples": sorted(self._samples)}
        append_objects(self._path, [line])
        self._samples.clear()


@dataclass(frozen=True)
class Balance:
    """What a ledger says. ``redone``: steps that more than one generation did."""

    steps: int
    samples: int
    lost: int
    repeated: int
    redone: int

    def to_dict(self) -> dict[str, int]:
        return dict(vars(self))


def read_ledger(run: Path) -> dict[int, dict[int, list[int]]]:
    """Generation -> step -> the samples of all ranks.

    Raises:
        DataError: naming file and line.
    """
    found: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((run / FOLDER).glob("rank-*.jsonl")):
        for where, line in read_objects(path):
            try:
                step, samples = int(line["step"]), [int(sample) for sample in line["samples"]]
                found[int(line["generation"])][step].extend(samples)
            except (KeyError, TypeError, ValueError) as error:
                raise DataError("this line is no step of a ledger", where=where) from error
    return found


def balance(run: Path) -> Balance | None:
    """Whether each sample up to the last one was consumed exactly once; None without a ledger.

    Raises:
        DataError: the ledger is damaged.
    """
    ledger = read_ledger(run)
    counting: dict[int, list[int]] = {}
    times: Counter[int] = Counter()
    for generation in sorted(ledger):
        counting.update(ledger[generation])
        times.update(ledger[generation].keys())
    if not counting:
        return None
    uses = Counter(sample for samples in counting.values() for sample in samples)
    most = max(uses, default=-1) + 1
    return Balance(
        steps=len(counting),
        samples=len(uses),
        lost=most - len(uses),
        repeated=sum(uses.values()) - len(uses),
        redone=sum(count > 1 for count in times.values()),
    )
