"""What parallel code must know of GPT's parameters, beside the plain model. No torch."""

from __future__ import annotations

from holmes.models.common.context import DECODER_CONTEXT as CONTEXT_SPLIT
from holmes.models.common.names import canonical_name, decays, tensor_dim, tied_parameters
from holmes.models.common.tensor import DECODER_SPLIT as TENSOR_SPLIT
from holmes.models.gpt.config import GptConfig

__all__ = [
    "CONTEXT_SPLIT",
    "TENSOR_SPLIT",
    "canonical_name",
    "decays",
    "tensor_dim",
    "tied_parameters",
    "zero_gradient_parameters",
]


def zero_gradient_parameters(config: GptConfig) -> frozenset[str]:
    """Parameters whose gradient is zero in exact arithmetic, so only rounding is left of it.

    A key bias adds the same number to all scores of a query, which softmax ignores.
    Rotary angles turn it differently for each key, so there its gradient is real.
    """
    if not config.bias or config.positions == "rotary":
        return frozenset()
    return frozenset(f"blocks.{i}.attention.key.bias" for i in range(1, config.layers + 1))
