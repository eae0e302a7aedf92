"""What a GPT costs: GptConfig -> Workload. No torch, loads alone.

Two sets of memory figures (:mod:`holmes.models.common.kept`):

* ``fp32``, ``fp64``, ``bf16``: what autograd keeps for the model of ``model.py``.
* ``mixed``: half-precision training as in Megatron-LM with dropout masks, where the core
  is unfused unless ``attention`` says otherwise (Korthikanti et al. 2022: 34 s h + 5 a s^2
  bytes a layer; selective drops the 5 a s^2; full keeps 2 s h).
"""

from __future__ import annotations

from holmes.models.common.describe import decoder_workload
from holmes.models.common.shape import Attention, DecoderShape, Precision
from holmes.models.gpt.config import PRESETS, GptConfig, config_from, preset_named
from holmes.workload import Workload

__all__ = [
    "PRESETS",
    "GptConfig",
    "Precision",
    "config_from",
    "parameter_count",
    "preset_named",
    "workload",
]


def workload(config: GptConfig, precision: Precision = "fp32", name: str | None = None) -> Workload:
    """The model as a chain of blocks: embedding, ``layers`` x transformer, head.

    Args:
        config: the sizes.
        precision: see the module's conventions.
        name: what to call it; the preset of these sizes, or the sizes, if left out.
    """
    return decoder_workload(shape_of(config, precision), "gpt", name or _name(config))


def shape_of(config: GptConfig, precision: Precision) -> DecoderShape:
    """The sizes in the terms that all decoders share."""
    mixed = precision == "mixed"
    usual: Attention = "unfused" if mixed else "fused"
    return DecoderShape(
        layers=config.layers,
        hidden=config.hidden,
        heads=config.heads,
        key_heads=config.heads,
        sequence=config.sequence,
        vocabulary=config.vocabulary,
        inner=config.inner,
        gated=config.mlp == "swiglu",
        learned_positions=config.positions == "learned",
        tied=config.tied,
        bias=config.bias,
        layernorm=config.norm == "layernorm",
        attention=config.attention or usual,
        precision=precision,
        dropout=mixed,
        statistics=not mixed,
        joined=mixed,
    )


def parameter_count(config: GptConfig) -> int:
    """Parameters of the model, a shared weight counted once."""
    return workload(config).parameters


def _name(config: GptConfig) -> str:
    for name, preset in PRESETS.items():
        if preset == config:
            return name
    return f"gpt-{config.layers}x{config.hidden}"
