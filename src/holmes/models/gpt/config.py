"""GptConfig: the sizes of one GPT, its presets, and how a job's `model:` becomes one. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from holmes.errors import ConfigError, suggestion

Mlp = Literal["gelu", "swiglu"]
Positions = Literal["learned", "rotary"]
Norm = Literal["layernorm", "rmsnorm"]

LARGEST = {
    "layers": 10_000,
    "hidden": 1_000_000,
    "heads": 100_000,
    "sequence": 10_000_000,
    "vocabulary": 10_000_000,
    "ffn": 10_000_000,
}
"""Bounds that catch a slipped digit; nothing near them has been trained."""

CHOICES: dict[str, tuple[str, ...]] = {
    "mlp": get_args(Mlp),
    "positions": get_args(Positions),
    "norm": get_args(Norm),
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
        mlp: ``gelu`` (two matrices) or ``swiglu`` (three).
        ffn: inner width of the MLP; None means 4 x hidden for gelu, and 8/3 x
            hidden rounded up to a multiple of 64 for swiglu.
        positions: a learned table, or rotary angles on queries and keys.
        tied: the head uses the token table.
        bias: biases on linear layers and on layer norms.
        norm: ``layernorm`` or ``rmsnorm`` (which never has a bias).

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

    def __post_init__(self) -> None:
        for key, largest in LARGEST.items():
            _check_size(key, getattr(self, key), largest)
        for key, allowed in CHOICES.items():
            _check_choice(key, getattr(self, key), allowed)
        for key in ("tied", "bias"):
            if not isinstance(getattr(self, key), bool):
                raise _wrong(key, getattr(self, key), "must be true or false")
        if self.hidden % self.heads:
            raise ConfigError(
                f"{self.heads} attention heads do not divide the hidden size {self.hidden}",
                where="model.heads",
                why="every head takes hidden / heads features",
                next_step=f"use a divisor of {self.hidden}, "
                f"e.g. heads={_nearest_divisor(self.hidden, self.heads)}",
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise ConfigError(
                f"rotary positions need an even head size, this one is {self.head_size}",
                where="model.heads",
                why="angles rotate pairs of features",
                next_step="choose heads so that hidden / heads is even, or positions=learned",
            )

    @property
    def head_size(self) -> int:
        """Features per head."""
        return self.hidden // self.heads

    @property
    def inner(self) -> int:
        """Width of the MLP's inner layer."""
        if self.ffn is not None:
            return self.ffn
        return 4 * self.hidden if self.mlp == "gelu" else -(-8 * self.hidden // 3 // 64) * 64

    @property
    def blocks(self) -> int:
        """Length of the chain: embedding, transformer blocks, head."""
        return self.layers + 2


def _check_size(key: str, value: object, largest: int) -> None:
    if key == "ffn" and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(key, value, "must be a whole number")
    if not 1 <= value <= largest:
        raise _wrong(key, value, f"must lie between 1 and {largest}")


def _check_choice(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value in allowed:
        return
    near = suggestion(str(value), allowed)
    raise ConfigError(
        f"model.{key} is {_short(value)}",
        where=f"model.{key}",
        why="must be one of " + ", ".join(allowed),
        next_step=f"did you mean {near!r}?" if near else None,
    )


def _wrong(key: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"model.{key} is {_short(value)}", where=f"model.{key}", why=rule)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest_divisor(number: int, wish: int) -> int:
    divisors = {
        d
        for low in range(1, int(number**0.5) + 1)
        if number % low == 0
        for d in (low, number // low)
    }
    return min(divisors, key=lambda divisor: (abs(divisor - wish), divisor))


def _megatron(layers: int, hidden: int, heads: int) -> GptConfig:
    return GptConfig(layers, hidden, heads, sequence=2048, vocabulary=51200)


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
    # Narayanan et al. 2021 (Megatron-LM, SC21), table 1; gpt-175b from its section 5.
    "gpt-1.7b": _megatron(24, 2304, 24),
    "gpt-3.6b": _megatron(30, 3072, 32),
    "gpt-7.5b": _megatron(36, 4096, 32),
    "gpt-18b": _megatron(40, 6144, 48),
    "gpt-39b": _megatron(48, 8192, 64),
    "gpt-76b": _megatron(60, 10240, 80),
    "gpt-145b": _megatron(80, 12288, 96),
    "gpt-175b": _megatron(96, 12288, 96),
    "gpt-310b": _megatron(96, 16384, 128),
    "gpt-530b": _megatron(105, 20480, 128),
    "gpt-1t": _megatron(128, 25600, 160),
}

REQUIRED = ("layers", "hidden", "heads", "sequence", "vocabulary")


def preset_named(name: str) -> GptConfig:
    """The preset of this name, in any case.

    Raises:
        ConfigError: with the nearest known name.
    """
    config = PRESETS.get(name.lower())
    if config is not None:
        return config
    near = suggestion(name.lower(), PRESETS)
    raise ConfigError(
        f"no model preset is named {name!r}",
        where="model.preset",
        why="presets are " + ", ".join(PRESETS),
        next_step=f"did you mean {near!r}?" if near else None,
    )


def config_from(spec: Mapping[str, Any] | str) -> GptConfig:
    """The configuration that a job's `model:` asks for.

    Args:
        spec: a preset name, or ``preset`` and sizes that override it, or all sizes.
            The key ``family`` is the caller's and is passed over.

    Raises:
        ConfigError: for an unknown key or preset, a missing or impossible size.
    """
    given: dict[str, Any] = {"preset": spec} if isinstance(spec, str) else dict(spec)
    given.pop("family", None)
    known = [field.name for field in fields(GptConfig)]
    for key in given:
        if key not in (*known, "preset"):
            near = suggestion(str(key), [*known, "preset"])
            raise ConfigError(
                f"unknown key {_short(key)} for a gpt model",
                where=f"model.{key}",
                why="known keys: preset, " + ", ".join(known),
                next_step=f"did you mean {near!r}?" if near else None,
            )
    name = given.pop("preset", None)
    if name is None:
        missing = [key for key in REQUIRED if key not in given]
        if missing:
            raise ConfigError(
                "the model's size is not given: missing " + ", ".join(missing),
                where="model",
                next_step="name a preset, e.g. preset: gpt-10m, or give the missing sizes",
            )
        return GptConfig(**given)
    if not isinstance(name, str):
        raise _wrong("preset", name, "must be a name, e.g. gpt-10m")
    base = preset_named(name)
    return GptConfig(**{**{key: getattr(base, key) for key in known}, **given})
