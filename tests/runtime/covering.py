"""A small set of combinations of the runtime's axes in which every legal pair of values occurs."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from functools import cache
from itertools import combinations, product
from typing import Any

from holmes.schedule.generate import SCHEDULES, WITH_VIRTUAL_STAGES
from tests.runtime.plans import Spec

MOST_RANKS = 8
USUAL_RANKS = 6
"""Of the cases that the search proposes; wider ones are named in :data:`WIDE`."""
Pair = tuple[tuple[str, Any], tuple[str, Any]]


@dataclass(frozen=True)
class Combination:
    """One value of every factor. ``dp`` is 2+1 where the stages have unequal replicas."""

    schedule: str
    tp: int
    pp: int
    dp: str
    cp: str
    sharding: str
    recompute: str
    tied: bool
    family: str
    overlap: bool
    chunks: int = 1

    @property
    def name(self) -> str:
        return "-".join(
            (
                self.schedule,
                f"tp{self.tp}-pp{self.pp}-dp{self.dp}-cp={self.cp}",
                self.sharding,
                self.recompute,
                "tied" if self.tied else "untied",
                self.family,
                "overlap" if self.overlap else "plain",
                *(["chunks"] if self.chunks > 1 else []),
            )
        )

    @property
    def ranks(self) -> int:
        columns = 3 if self.dp == "2+1" else int(self.dp) * self.pp
        return self.tp * columns * self.context_ranks

    @property
    def context_ranks(self) -> int:
        return 1 if self.cp == "none" else 2

    @property
    def refusal(self) -> str | None:
        """What the refusal says, where this combination has no meaning or no implementation."""
        if self.pp == 1 and self.schedule in WITH_VIRTUAL_STAGES:
            return f"{self.schedule} on one pipeline rank"
        if self.dp == "2+1" and self.cp != "none":
            return "context ranks in stages whose layouts differ"
        if self.chunks > 1 and self.schedule == "zero-bubble":
            return "tensor_chunks: 2 with zero-bubble"
        return None

    @property
    def spec(self) -> Spec:
        unequal = self.dp == "2+1"
        replicas = 1 if unequal else int(self.dp) * self.context_ranks
        sizes: dict[str, tuple[int, ...]] = {}
        if replicas > 1:
            sizes = {"hybrid": (2,), "three-level": (replicas // 2, 2)}
        return Spec(
            schedule=self.schedule,
            virtual=2 if self.schedule in WITH_VIRTUAL_STAGES else 1,
            tp=self.tp,
            pp=self.pp,
            dp=1 if unequal else int(self.dp),
            meshes=((self.tp, 2), (self.tp, 1)) if unequal else (),
            micro=3 if unequal else 2,
            cp=self.context_ranks,
            algorithm="ring" if self.cp == "none" else self.cp,
            sharding=self.sharding,
            shard=sizes.get(self.sharding, ()),
            recompute=self.recompute,
            tied=self.tied,
            family=self.family,
            overlap=self.overlap,
            chunks=self.chunks,
            heads=4,
            key_heads=2,
            precision="fp64",
            steps=2,
        )

    @property
    def pairs(self) -> frozenset[Pair]:
        values = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return frozenset(combinations(values, 2))


FACTORS: dict[str, tuple[Any, ...]] = {
    "schedule": SCHEDULES,
    "tp": (1, 2),
    "pp": (1, 2),
    "dp": ("1", "2", "2+1"),
    "cp": ("none", "ring", "rsa", "ulysses"),
    "sharding": ("none", "optimizer", "gradients", "parameters", "hybrid", "three-level"),
    "recompute": ("none", "selective", "full"),
    "tied": (False, True),
    "family": ("gpt", "llama"),
    "overlap": (False, True),
    "chunks": (1, 2),
}
WIDE = (
    Combination("zero-bubble", 2, 2, "2", "none", "parameters", "full", True, "gpt", True),
    Combination("interleaved", 2, 2, "1", "ring", "gradients", "none", True, "llama", True, 2),
    Combination("1f1b", 1, 2, "2", "ulysses", "three-level", "selective", True, "llama", True),
)
"""Three axes at once, on eight ranks."""


def all_combinations() -> list[Combination]:
    """Every combination that can be written down: two widths of stages need two stages, and
    chunks tensor ranks."""
    found = [Combination(*values) for values in product(*FACTORS.values())]
    return [
        one
        for one in found
        if (one.pp == 2 or one.dp != "2+1") and (one.tp == 2 or one.chunks == 1)
    ]


@cache
def legal() -> tuple[Combination, ...]:
    """Those that the runtime does not refuse, on two to eight ranks."""
    return tuple(
        one for one in all_combinations() if one.refusal is None and 2 <= one.ranks <= MOST_RANKS
    )


@cache
def covering() -> tuple[Combination, ...]:
    """Greedy: of the narrow combinations always the one with the most pairs still uncovered.

    Ties are broken by a seeded shuffle, then by fewer ranks, so the set is always the same.
    """
    candidates = [one for one in legal() if one.ranks <= USUAL_RANKS]
    random.Random(0).shuffle(candidates)
    candidates.sort(key=lambda one: one.ranks)
    numbers: dict[Pair, int] = {}
    masks = [_mask(one, numbers) for one in candidates]
    missing = 0
    for mask in masks:
        missing |= mask
    for one in WIDE:
        missing &= ~_mask(one, numbers)
    chosen = list(WIDE)
    while missing:
        gains = [(mask & missing).bit_count() for mask in masks]
        best = gains.index(max(gains))
        chosen.append(candidates[best])
        missing &= ~masks[best]
    return tuple(chosen)


def _mask(one: Combination, numbers: dict[Pair, int]) -> int:
    """The pairs of a combination as bits; ``numbers`` grows with every new pair."""
    mask = 0
    for pair in one.pairs:
        mask |= 1 << numbers.setdefault(pair, len(numbers))
    return mask
