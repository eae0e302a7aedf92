"""LlamaConfig: sizes of a Llama, presets, and how a job's `model:` becomes one. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from holmes.errors import ConfigError
from holmes.models.common.rotary import RotaryScaling, ScalingKind, yarn_amplitude
from holmes.models.common.shape import Attention
from holmes.models.common.sizes import (
    check_choices,
    check_flags,
    check_heads,
    check_number,
    check_sizes,
    config_of,
    gated_width,
    wrong,
)
from holmes.models.llama.folder import sizes_in

TURNS = {"llama3": 4.0, "yarn": 32.0}
"""``rotary_high`` where it is not given: as published with each scaling."""


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama: pre-norm, RMSNorm, SwiGLU, rotary positions, no biases.

    Variants by configuration: Mistral (``window``), Qwen2 (``qkv_bias``), Qwen3 (``qk_norm``,
    ``head_dim``).

    Attributes:
        layers: transformer blocks.
        hidden: width of the residual stream.
        heads: attention heads; divides ``hidden``.
        sequence: tokens of one sample.
        vocabulary: rows of the token table and of the head.
        key_heads: heads of keys and values, a divisor of ``heads`` (Ainslie et al.
            2023); None means as many as ``heads``.
        ffn: inner width of the MLP; None means 8/3 x hidden rounded up to a multiple of 64.
        tied: the head uses the token table.
        rotary_base: base of the rotary angles' wave lengths.
        attention: ``fused`` or ``unfused`` (scores pass through memory).
        head_dim: features per head; None means hidden / heads.
        window: the most tokens that one reads, itself included; None: all before it.
        window_from: the layers before this one read all, whatever the ``window``.
        qkv_bias: biases on queries, keys and values.
        qk_norm: RMSNorm on the queries and keys of every head.
        norm_epsilon: added to the mean square.
        rotary_scaling: ``linear``, ``llama3`` or ``yarn``, slower angles for longer texts, by
            ``rotary_factor``; see :class:`RotaryScaling` for the other ``rotary_`` keys.

    Raises:
        ConfigError: naming the key, when a size is impossible.
    """

    layers: int
    hidden: int
    heads: int
    sequence: int
    vocabulary: int
    key_heads: int | None = None
    ffn: int | None = None
    tied: bool = False
    rotary_base: float = 10000.0
    attention: Attention = "fused"
    head_dim: int | None = None
    window: int | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    norm_epsilon: float = 1e-5
    rotary_scaling: ScalingKind | None = None
    rotary_factor: float | None = None
    rotary_low: float = 1.0
    rotary_high: float | None = None
    rotary_original: int | None = None
    rotary_amplitude: float | None = None
    window_from: int = 0

    def __post_init__(self) -> None:
        check_sizes(self)
        choices = {
            "attention": get_args(Attention),
            "rotary_scaling": (*get_args(ScalingKind), None),
        }
        check_choices(self, choices)
        check_flags(self, ("tied", "qkv_bias", "qk_norm"))
        check_heads(self.hidden, self.heads, rotary=True, head_dim=self.head_dim)
        check_number(self, "rotary_base", above=1)
        check_number(self, "norm_epsilon", above=0)
        self._check_scaling()
        self._check_window()
        if self.heads % self.groups:
            raise ConfigError(
                f"{self.groups} heads of keys do not divide {self.heads} heads",
                where="model.key_heads",
                why="each head of keys and values serves as many heads",
                next_step=f"use a divisor of {self.heads}",
            )

    def _check_scaling(self) -> None:
        if self.rotary_scaling is None:
            if self.rotary_factor is not None:
                raise wrong("rotary_factor", self.rotary_factor, "needs model.rotary_scaling")
            return
        check_number(self, "rotary_factor", above=0)
        given = [k for k in ("rotary_high", "rotary_amplitude") if getattr(self, k) is not None]
        for key in ("rotary_low", *given):
            check_number(self, key, above=0)
        if self.rotary_amplitude is not None and self.rotary_scaling != "yarn":
            raise wrong("rotary_amplitude", self.rotary_amplitude, "only yarn scaling has one")
        if self.rotary_scaling == "linear":
            return
        if self._high <= self.rotary_low:
            raise wrong("rotary_high", self._high, "must be above model.rotary_low")
        if self.rotary_original is None:
            why = f"{self.rotary_scaling} scaling needs the length before it"
            raise wrong("rotary_original", None, why)

    def _check_window(self) -> None:
        first = self.window_from
        if isinstance(first, bool) or not isinstance(first, int):
            raise wrong("window_from", first, "must be a whole number")
        if not 0 <= first < self.layers:
            raise wrong("window_from", first, f"must lie between 0 and {self.layers - 1}")
        if first and self.window is None:
            raise wrong("window_from", first, "needs model.window")

    @property
    def _high(self) -> float:
        if self.rotary_high is not None:
            return self.rotary_high
        return TURNS.get(self.rotary_scaling or "", 1.0)

    @property
    def scaling(self) -> RotaryScaling | None:
        """How rotary angles are slowed, or None."""
        if self.rotary_scaling is None or self.rotary_factor is None:
            return None
        return RotaryScaling(
            self.rotary_scaling,
            self.rotary_factor,
            self.rotary_low,
            self._high,
            self.rotary_original or self.sequence,
            self._amplitude,
        )

    @property
    def _amplitude(self) -> float:
        if self.rotary_scaling != "yarn":
            return 1.0
        return self.rotary_amplitude or yarn_amplitude(self.rotary_factor or 1.0)

    def window_of(self, layer: int) -> int | None:
        """The window of a layer, counted from 0; None where it reads all."""
        return self.window if layer >= self.window_from else None

    @property
    def head_size(self) -> int:
        """Features per head."""
        return self.head_dim if self.head_dim is not None else self.hidden // self.heads

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.key_heads is None else self.key_heads

    @property
    def inner(self) -> int:
        """Width of the MLP's inner layer."""
        return self.ffn if self.ffn is not None else gated_width(self.hidden)

    @property
    def blocks(self) -> int:
        """Length of the chain: embedding, transformer blocks, head."""
        return self.layers + 2


def _llama2(
    layers: int, hidden: int, heads: int, ffn: int, key_heads: int | None = None
) -> LlamaConfig:
    return LlamaConfig(layers, hidden, heads, 4096, 32000, key_heads=key_heads, ffn=ffn)


def _llama3(layers: int, hidden: int, heads: int, ffn: int) -> LlamaConfig:
    return LlamaConfig(
        layers, hidden, heads, 8192, 128256, key_heads=8, ffn=ffn, rotary_base=500_000.0
    )


PRESETS: dict[str, LlamaConfig] = {
    # For a CPU; its vocabulary is the default size of the local tokenizer.
    "llama-1m": LlamaConfig(4, 128, 4, sequence=128, vocabulary=2048, key_heads=2, tied=True),
    # Touvron et al. 2023, "Llama 2", and the configurations released with it.
    "llama2-7b": _llama2(32, 4096, 32, 11008),
    "llama2-13b": _llama2(40, 5120, 40, 13824),
    "llama2-70b": _llama2(80, 8192, 64, 28672, key_heads=8),
    # Grattafiori et al. 2024, "The Llama 3 Herd of Models", table 3.
    "llama3-8b": _llama3(32, 4096, 32, 14336),
    "llama3-70b": _llama3(80, 8192, 64, 28672),
    "llama3-405b": _llama3(126, 16384, 128, 53248),
}


def config_from(spec: Mapping[str, Any] | str) -> LlamaConfig:
    """The configuration that a job's `model:` asks for, see :func:`config_of`.

    Raises:
        ConfigError: for an unknown key or preset, a missing or impossible size.
    """
    return config_of("llama", LlamaConfig, PRESETS, spec, sizes_in)
