"""Other spellings of a device kind: ``A100-SXM4-80GB`` for ``a100-80g-sxm``."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAKERS = frozenset({"nvidia", "amd", "tesla", "geforce", "instinct", "quadro"})
"""Words that tell no kind from another."""


def kinds_called(name: str, kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds that a name may mean: it begins with their first word, and each other word
    of it is one of theirs.

    Sizes may be written with or without the B of GB, forms with or without their number
    (``sxm4`` is an ``sxm``). Order is that of ``kinds``.
    """
    asked = _words(name)
    return tuple(kind for kind in kinds if asked and _means(asked, _words(kind)))


def _words(name: str) -> list[str]:
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    words = [re.sub(r"^(\d+)gb$", r"\1g", word) for word in words if word not in MAKERS]
    return [re.sub(r"^sxm\d$", "sxm", word) for word in words]


def _means(asked: Sequence[str], known: Sequence[str]) -> bool:
    return asked[0] == known[0] and set(asked) <= set(known)
