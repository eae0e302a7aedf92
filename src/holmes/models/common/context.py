"""How a model runs on the tokens of a context rank, as a declaration beside it. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ContextSplit:
    """Sub-modules by their names in a block that see more than one token at a time.

    Attributes:
        core: attention from queries, keys and values; it is replaced by one over the ranks.
        rotary: turns by the position of a token.
        position: a table that is read by position.
    """

    core: str
    rotary: str
    position: str


DECODER_CONTEXT = ContextSplit("attention.core", "attention.rotary", "position")
"""Of every decoder whose sub-modules are named as in ``names.py``."""
