"""Shapes of published models that a row's sizes do not tell: Hugging Face's config.json of each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from holmes.accuracy.table import DEFAULT_VOCABULARY, Case, UnusableRowError
from holmes.accuracy.words import key


@dataclass(frozen=True)
class Published:
    """What a gated decoder has beside hidden size and layers.

    Attributes:
        inner: width of the MLP, or of one expert.
        experts, top_k: of a mixture; 0: none.
    """

    inner: int
    key_heads: int
    vocabulary: int
    experts: int = 0
    top_k: int = 0


LLAMA2, LLAMA3, QWEN = 32_000, 128_256, 152_064
NAMED: tuple[tuple[str, tuple[int, int], Published], ...] = (
    # (in the name without signs, (hidden, layers), shape); the first that fits holds
    ("mixtral", (4096, 32), Published(14336, 8, LLAMA2, 8, 2)),
    ("mixtral", (6144, 56), Published(16384, 8, 32_768, 8, 2)),
    ("mistral", (4096, 32), Published(14336, 8, LLAMA2)),
    ("qwen", (3584, 28), Published(18944, 4, QWEN)),
    ("qwen", (5120, 48), Published(13824, 8, QWEN)),
    ("qwen", (5120, 64), Published(27648, 8, QWEN)),
    ("qwen", (8192, 80), Published(29568, 8, QWEN)),
    ("codellama", (8192, 48), Published(22016, 8, LLAMA2)),
    ("llama3", (4096, 32), Published(14336, 8, LLAMA3)),
    ("llama3", (8192, 80), Published(28672, 8, LLAMA3)),
    ("llama3", (16384, 126), Published(53248, 8, LLAMA3)),
    ("llama3", (2048, 16), Published(8192, 8, LLAMA3)),
    ("llama3", (3072, 28), Published(8192, 8, LLAMA3)),
    ("llama", (2048, 22), Published(5632, 4, LLAMA2)),
    ("65b", (8192, 80), Published(22016, 64, LLAMA2)),
    ("llama", (4096, 32), Published(11008, 32, LLAMA2)),
    ("llama", (5120, 40), Published(13824, 40, LLAMA2)),
    ("llama", (6656, 60), Published(17920, 52, LLAMA2)),
    ("llama", (8192, 80), Published(28672, 8, LLAMA2)),
)
MIXTURES = re.compile(
    r"mixtral|moe|deepseek(v[23]|r1)|8x7b|8x22b|switch|glam|dbrx|grok|llama4|gptoss|\db?a\d+b"
)
"""In names of models whose layers are mixtures of experts; ``30b-a3b``: 3 of 30 billion active."""


def published_of(case: Case) -> Published | None:
    """The shape of a published gated model by the name and sizes of a row.

    Raises:
        UnusableRowError: a mixture of experts whose shape is not known; as a dense model it
            would be another one.
    """
    name = key(case.model)
    for word, sizes, shape in NAMED:
        stated = (shape.vocabulary, DEFAULT_VOCABULARY)
        if word in name and sizes == (case.hidden, case.layers) and case.vocabulary in stated:
            return shape
    if MIXTURES.search(name):
        raise UnusableRowError(
            f"{case.model} of {case.layers} layers x {case.hidden} is a mixture of experts whose "
            "shape is not known here"
        )
    return None
