"""GptConfig: the sizes of one GPT, its presets, and how a job's `model:` becomes one. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from holmes.models.common.shape import Attention
from holmes.models.common.sizes import (
    check_choices,
    check_flags,
    check_heads,
    check_number,
    check_sizes,
    config_of,
    gated_width,
    preset_in,
)
from holmes.models.gpt.folder import sizes_in

Mlp = Literal["gelu", "gelu-tanh", "swiglu"]
Positions = Literal["learned", "rotary"]
Norm = Literal["layernorm", "rmsnorm"]

CHOICES: dict[str, tuple[Any, ...]] = {
    "mlp": get_args(Mlp),
    "positions": get_args(Positions),
    "norm": get_args(Norm),
    "attention": (*get_args(Attention), None),
}


@dataclass(frozen=True)
class GptConfig:
    """Sizes of a pre-norm GPT.

    Attributes:
        layers: transformer blocks.
        hidden: width of the residual stream.
        heads: attention heads; divides ``hidden``.
        sequence: tokens of one sample.
        vocabulary: rows of the token table and of the head.
        mlp: ``gelu`` (two matrices), ``gelu-tanh`` (its approximation, as in GPT-2) or
            ``swiglu`` (three matrices).
        ffn: inner width of the MLP; None means 4 x hidden for gelu, and 8/3 x
            hidden rounded up to a multiple of 64 for swiglu.
        positions: a learned table, or rotary angles on queries and keys.
        tied: the head uses the token table.
        bias: biases on linear layers and on layer norms.
        norm: ``layernorm`` or ``rmsnorm`` (which never has a bias).
        norm_epsilon: added to the variance.
        attention: ``fused`` or ``unfused`` (scores pass through memory). None means
            unfused in the ``mixed`` account of Megatron-LM's published runs, else fused.

    Raises:
        ConfigError: naming the key, when a size is impossible.
    """

    layers: int
    hidden: int
    heads: int
    sequence: int
    vocabulary: int
    mlp: Mlp = "gelu"
    ffn: int | None = None
    positions: Positions = "learned"
    tied: bool = True
    bias: bool = True
    norm: Norm = "layernorm"
    attention: Attention | None = None
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        check_sizes(self)
        check_choices(self, CHOICES)
        check_flags(self, ("tied", "bias"))
        check_number(self, "norm_epsilon", above=0)
        check_heads(self.hidden, self.heads, rotary=self.positions == "rotary")

    @property
    def head_size(self) -> int:
        """Features per head."""
        return self.hidden // self.heads

    @property
    def inner(self) -> int:
        """Width of the MLP's inner layer."""
        if self.ffn is not None:
            return self.ffn
        return gated_width(self.hidden) if self.mlp == "swiglu" else 4 * self.hidden

    @property
    def blocks(self) -> int:
        """Length of the chain: embedding, transformer blocks, head."""
        return self.layers + 2


def _megatron(layers: int, hidden: int, heads: int) -> GptConfig:
    return GptConfig(layers, hidden, heads, sequence=2048, vocabulary=51200)


def _one_node(layers: int, hidden: int) -> GptConfig:
    return GptConfig(layers, hidden, heads=16, sequence=1024, vocabulary=50257)


PRESETS: dict[str, GptConfig] = {
    # Small ones for a CPU; their vocabulary is the default size of the local tokenizer.
    "gpt-1m": GptConfig(4, 128, 4, sequence=128, vocabulary=2048),
    "gpt-5m": GptConfig(6, 256, 8, sequence=256, vocabulary=2048),
    "gpt-10m": GptConfig(8, 320, 8, sequence=256, vocabulary=2048),
    "gpt-50m": GptConfig(15, 512, 8, sequence=512, vocabulary=4096),
    # Radford et al. 2019 (small, medium); Brown et al. 2020, table 2.1.
    "gpt-125m": GptConfig(12, 768, 12, sequence=1024, vocabulary=50257),
    "gpt-350m": GptConfig(24, 1024, 16, sequence=1024, vocabulary=50257),
    "gpt-760m": GptConfig(24, 1536, 16, sequence=2048, vocabulary=50257),
    "gpt-1.3b": GptConfig(24, 2048, 16, sequence=2048, vocabulary=50257),
    # Narayanan et al. 2021 (Megatron-LM, SC21), table 1; gpt-175b from its section 5;
    # gpt-22b from Korthikanti et al. 2022, table 3.
    "gpt-1.7b": _megatron(24, 2304, 24),
    "gpt-3.6b": _megatron(30, 3072, 32),
    "gpt-7.5b": _megatron(36, 4096, 32),
    "gpt-18b": _megatron(40, 6144, 48),
    "gpt-22b": _megatron(48, 6144, 64),
    "gpt-39b": _megatron(48, 8192, 64),
    "gpt-76b": _megatron(60, 10240, 80),
    "gpt-145b": _megatron(80, 12288, 96),
    "gpt-175b": _megatron(96, 12288, 96),
    "gpt-310b": _megatron(96, 16384, 128),
    "gpt-530b": _megatron(105, 20480, 128),
    "gpt-1t": _megatron(128, 25600, 160),
    # The one-node models of vTrain (Bang et al. 2024), by layers and width.
    "gpt-l12h2048": _one_node(12, 2048),
    "gpt-l16h1024": _one_node(16, 1024),
    "gpt-l16h2048": _one_node(16, 2048),
    "gpt-l20h1024": _one_node(20, 1024),
    "gpt-l24h2048": _one_node(24, 2048),
    # GPT-Neo's width and depth with the heads and vocabulary that Sailor measured
    # (Strati et al. 2025); the published model has 20 heads and 50257 tokens.
    "gpt-neo-2.7b": GptConfig(32, 2560, 32, sequence=2048, vocabulary=128256),
}


def preset_named(name: str) -> GptConfig:
    """The preset of this name, in any case.

    Raises:
        ConfigError: with the nearest known name.
    """
    return preset_in(PRESETS, name)


def config_from(spec: Mapping[str, Any] | str) -> GptConfig:
    """The configuration that a job's `model:` asks for, see :func:`config_of`.

    Raises:
        ConfigError: for an unknown key or preset, a missing or impossible size.
    """
    return config_of("gpt", GptConfig, PRESETS, spec, sizes_in)
