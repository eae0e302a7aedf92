"""What parallel code must know of Llama's parameters, beside the plain model. No torch."""

from __future__ import annotations

from holmes.models.common.context import DECODER_CONTEXT as CONTEXT_SPLIT
from holmes.models.common.names import canonical_name, decays, tensor_dim, tied_parameters
from holmes.models.common.tensor import DECODER_SPLIT as TENSOR_SPLIT
from holmes.models.llama.config import LlamaConfig

__all__ = [
    "CONTEXT_SPLIT",
    "TENSOR_SPLIT",
    "canonical_name",
    "decays",
    "tensor_dim",
    "tied_parameters",
    "zero_gradient_parameters",
]


def zero_gradient_parameters(config: LlamaConfig) -> frozenset[str]:
    """Parameters whose gradient is zero in exact arithmetic: none, there are no biases."""
    return frozenset()
