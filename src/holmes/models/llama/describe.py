"""What a Llama costs: LlamaConfig -> Workload. No torch, loads alone.

``fp32``, ``fp64`` and ``bf16`` count what autograd keeps for the model of ``model.py``;
``mixed`` half-precision training without dropout (:mod:`holmes.models.common.kept`).
"""

from __future__ import annotations

from holmes.models.common.describe import decoder_workload
from holmes.models.common.shape import DecoderShape, Precision
from holmes.models.llama.config import PRESETS, LlamaConfig, config_from
from holmes.workload import Workload

__all__ = ["PRESETS", "LlamaConfig", "config_from", "parameter_count", "shape_of", "workload"]


def workload(
    config: LlamaConfig, precision: Precision = "fp32", name: str | None = None
) -> Workload:
    """The model as a chain of blocks: embedding, ``layers`` x transformer, head.

    Args:
        config: the sizes.
        precision: see the module's conventions.
        name: what to call it; the preset of these sizes, or the sizes, if left out.
    """
    return decoder_workload(shape_of(config, precision), "llama", name or _name(config))


def shape_of(config: LlamaConfig, precision: Precision) -> DecoderShape:
    """The sizes in the terms that all decoders share."""
    return DecoderShape(
        layers=config.layers,
        hidden=config.hidden,
        heads=config.heads,
        key_heads=config.groups,
        sequence=config.sequence,
        vocabulary=config.vocabulary,
        inner=config.inner,
        gated=True,
        learned_positions=False,
        tied=config.tied,
        bias=False,
        layernorm=False,
        attention=config.attention,
        precision=precision,
        statistics=precision != "mixed",
        head_features=config.head_dim,
        qkv_bias=config.qkv_bias,
        qk_norm=config.qk_norm,
    )


def parameter_count(config: LlamaConfig) -> int:
    """Parameters of the model, a shared weight counted once."""
    return workload(config).parameters


def _name(config: LlamaConfig) -> str:
    for name, preset in PRESETS.items():
        if preset == config:
            return name
    return f"llama-{config.layers}x{config.hidden}"
