"""What parallel code must know about a decoder's parameters, by their names. No torch.

Names are global: ``blocks.<index>.<name in the block>``. Families that name their layers
alike share this; what is special about one stands in its own ``sharding.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

COLUMN = ("attention.query", "attention.key", "attention.value", "mlp.up", "mlp.gate")
"""Linear layers whose outputs split over the tensor axis (weight and bias: dim 0)."""

ROW = ("attention.output", "mlp.down")
"""Linear layers whose inputs split over the tensor axis (weight: dim 1, bias whole)."""


class TiedConfig(Protocol):
    """What naming shared weights needs to know of a family's configuration."""

    @property
    def blocks(self) -> int: ...

    @property
    def tied(self) -> bool: ...


def decays(shape: Sequence[int]) -> bool:
    """Whether weight decay applies: to matrices, not to biases and norms."""
    return len(shape) >= 2


def tied_parameters(config: TiedConfig) -> tuple[tuple[str, str], ...]:
    """Pairs of names of one shared weight, the first one being its canonical name."""
    if not config.tied:
        return ()
    return (("blocks.0.token.weight", f"blocks.{config.blocks - 1}.projection.weight"),)


def canonical_name(config: TiedConfig, name: str) -> str:
    """The name a parameter is stored under: the first of a tied pair, else its own."""
    return next((first for first, twin in tied_parameters(config) if twin == name), name)


def tensor_dim(name: str) -> int | None:
    """The dim of a parameter that splits over the tensor axis, or None when it is whole."""
    _, _, local = name.split(".", 2)
    layer, _, kind = local.rpartition(".")
    if layer in ("token", "projection"):
        return 0
    if layer in COLUMN:
        return 0
    if layer in ROW and kind == "weight":
        return 1
    return None
