"""What a mixture-of-experts decoder costs: MixtralConfig -> Workload. No torch, loads alone.

Jiang et al. 2024, "Mixtral of Experts". Who gets how many tokens depends on the data:
times and memory are those of an even choice, the exchanged bytes are upper bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from holmes.errors import ConfigError
from holmes.models.common.describe import decoder_workload
from holmes.models.common.shape import DecoderShape, Precision
from holmes.models.common.sizes import config_of
from holmes.models.llama import describe as llama
from holmes.models.llama.config import LlamaConfig
from holmes.workload import Workload

__all__ = ["PRESETS", "MixtralConfig", "config_from", "parameter_count", "shape_of", "workload"]


@dataclass(frozen=True)
class MixtralConfig(LlamaConfig):
    """A Llama with ``experts`` MLPs per layer, of which each token takes ``top_k``.

    Raises:
        ConfigError: naming the key, when a size is impossible.
    """

    experts: int = 8
    top_k: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k > self.experts:
            raise ConfigError(
                f"each token takes {self.top_k} experts of {self.experts}",
                where="model.top_k",
                why="a token takes an expert once",
                next_step=f"use at most {self.experts}",
            )


PRESETS: dict[str, MixtralConfig] = {
    # Sizes as released; the sequence is what a training plan assumes, the models take longer ones.
    "mixtral-8x7b": MixtralConfig(
        32, 4096, 32, 4096, 32000, key_heads=8, ffn=14336, rotary_base=1e6
    ),
    "mixtral-8x22b": MixtralConfig(
        56, 6144, 48, 4096, 32768, key_heads=8, ffn=16384, rotary_base=1e6
    ),
}


def config_from(spec: Mapping[str, Any] | str) -> MixtralConfig:
    """The configuration that a job's `model:` asks for, see :func:`config_of`.

    Raises:
        ConfigError: for an unknown key or preset, a missing or impossible size.
    """
    return config_of("mixtral", MixtralConfig, PRESETS, spec)


def workload(
    config: MixtralConfig, precision: Precision = "fp32", name: str | None = None
) -> Workload:
    """The model as a chain of blocks: embedding, ``layers`` x transformer, head.

    Args:
        config: the sizes.
        precision: as in :mod:`holmes.models.llama.describe`.
        name: what to call it; the preset of these sizes, or the sizes, if left out.
    """
    return decoder_workload(shape_of(config, precision), "mixtral", name or _name(config))


def shape_of(config: MixtralConfig, precision: Precision) -> DecoderShape:
    """The sizes in the terms that all decoders share."""
    shape = llama.shape_of(config, precision)
    return replace(shape, experts=config.experts, top_k=config.top_k)


def parameter_count(config: MixtralConfig) -> int:
    """Parameters of the model, all experts included."""
    return workload(config).parameters


def _name(config: MixtralConfig) -> str:
    for name, preset in PRESETS.items():
        if preset == config:
            return name
    return f"mixtral-{config.layers}x{config.hidden}"
