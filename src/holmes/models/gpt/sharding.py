"""What parallel code must know about GPT's parameters, declared beside the plain model.

Names are global: ``blocks.<index>.<name in the block>``. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from holmes.models.gpt.config import GptConfig

COLUMN = ("attention.query", "attention.key", "attention.value", "mlp.up", "mlp.gate")
"""Linear layers whose outputs split over the tensor axis (weight and bias: dim 0)."""

ROW = ("attention.output", "mlp.down")
"""Linear layers whose inputs split over the tensor axis (weight: dim 1, bias whole)."""


def decays(shape: Sequence[int]) -> bool:
    """Whether weight decay applies: to matrices, not to biases and norms."""
    return len(shape) >= 2


def tied_parameters(config: GptConfig) -> tuple[tuple[str, str], ...]:
    """Pairs of names of one shared weight, the first one being its canonical name."""
    if not config.tied:
        return ()
    return (("blocks.0.token.weight", f"blocks.{config.blocks - 1}.projection.weight"),)


def canonical_name(config: GptConfig, name: str) -> str:
    """The name a parameter is stored under: the first of a tied pair, else its own."""
    return next((first for first, twin in tied_parameters(config) if twin == name), name)


def zero_gradient_parameters(config: GptConfig) -> frozenset[str]:
    """Parameters whose gradient is zero in exact arithmetic, so only rounding is left of it.

    A key bias adds the same number to all scores of a query, which softmax ignores.
    Rotary angles turn it differently for each key, so there its gradient is real.
    """
    if not config.bias or config.positions == "rotary":
        return frozenset()
    return frozenset(f"blocks.{i}.attention.key.bias" for i in range(1, config.layers + 1))


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
