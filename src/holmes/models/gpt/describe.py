"""What a GPT costs: GptConfig -> Workload. No torch, loads alone.

Conventions. FLOPs are those of matrix products, two per multiply-add, attention
over the full square (a causal kernel may do half). Bytes of a segment are the
activations it reads and writes for one sample; weights are left out, since they
are read once per micro-batch and stay hidden under its product.

Two sets of memory figures:

* ``fp32``, ``fp64``, ``bf16``: what autograd keeps for the model of ``model.py``,
  whose attention never stores the score matrix. ``bf16`` is autocast: parameters,
  gradients and the residual stream stay fp32.
* ``mixed``: half-precision training as in Megatron-LM with unfused attention and
  dropout masks: Korthikanti et al. 2022, "Reducing Activation Recomputation in
  Large Transformer Models", sections 4.1, 4.3 and 5 (34 s h + 5 a s^2 bytes a layer; selective
  drops the 5 a s^2; full keeps 2 s h). States: bf16 parameters (2), fp32
  gradients (4), fp32 master copy and two moments (12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holmes.models.gpt.config import PRESETS, GptConfig, config_from, preset_named
from holmes.workload import Block, Collective, Segment, Workload

__all__ = [
    "PRESETS",
    "GptConfig",
    "Precision",
    "config_from",
    "parameter_count",
    "preset_named",
    "workload",
]

Precision = Literal["fp32", "fp64", "bf16", "mixed"]
INDEX_BYTES = 8
"""Token ids are int64."""


@dataclass(frozen=True)
class _Widths:
    """Bytes per element. ``stream`` is the residual stream, ``compute`` what products read."""

    stream: int
    compute: int
    parameter: int
    gradient: int
    optimizer: int


WIDTHS: dict[str, _Widths] = {
    "fp32": _Widths(4, 4, 4, 4, 8),
    "fp64": _Widths(8, 8, 8, 8, 16),
    "bf16": _Widths(4, 2, 4, 4, 8),
    "mixed": _Widths(2, 2, 2, 4, 12),
}


def workload(config: GptConfig, precision: Precision = "fp32", name: str | None = None) -> Workload:
    """The model as a chain of blocks: embedding, ``layers`` x transformer, head.

    Args:
        config: the sizes.
        precision: see the module's conventions.
        name: what to call it; the preset of these sizes, or the sizes, if left out.
    """
    widths = WIDTHS[precision]
    layer = _transformer(config, widths, precision)
    layers = tuple(
        Block(
            name=f"layer.{index}",
            kind="transformer",
            parameters=layer.parameters,
            tensors=layer.tensors,
            inner=layer.inner,
            activation_bytes=layer.activation_bytes,
            output_bytes=layer.output_bytes,
        )
        for index in range(config.layers)
    )
    return Workload(
        name=name or _name(config),
        family="gpt",
        sequence=config.sequence,
        hidden=config.hidden,
        heads=config.heads,
        vocabulary=config.vocabulary,
        blocks=(_embedding(config, widths, precision), *layers, _head(config, widths, precision)),
        parameter_bytes=widths.parameter,
        gradient_bytes=widths.gradient,
        optimizer_bytes=widths.optimizer,
        tied=(0, config.blocks - 1) if config.tied else None,
        tied_parameters=config.vocabulary * config.hidden if config.tied else 0,
    )


def parameter_count(config: GptConfig) -> int:
    """Parameters of the model, a shared weight counted once."""
    return workload(config).parameters


def _name(config: GptConfig) -> str:
    for name, preset in PRESETS.items():
        if preset == config:
            return name
    return f"gpt-{config.layers}x{config.hidden}"


def _norm_parameters(config: GptConfig) -> tuple[int, int]:
    """(elements, tensors) of one norm."""
    tensors = 2 if config.norm == "layernorm" and config.bias else 1
    return tensors * config.hidden, tensors


def _embedding(config: GptConfig, widths: _Widths, precision: Precision) -> Block:
    size = config.sequence * config.hidden
    learned = config.positions == "learned"
    ids = INDEX_BYTES * config.sequence * (2 if learned else 1)
    kept = {"none": float(ids), "selective": float(ids), "full": float(ids)}
    if precision == "mixed":
        kept = dict.fromkeys(kept, float(INDEX_BYTES * config.sequence + size))
    return Block(
        name="embedding",
        kind="embedding",
        parameters=config.vocabulary * config.hidden + (size if learned else 0),
        tensors=2 if learned else 1,
        inner=(Segment("lookup", 0.0, float(2 * size * widths.stream)),),
        activation_bytes=kept,
        output_bytes=float(size * widths.stream),
    )


def _head(config: GptConfig, widths: _Widths, precision: Precision) -> Block:
    size = config.sequence * config.hidden
    logits = config.sequence * config.vocabulary
    norm, norm_tensors = _norm_parameters(config)
    ids = INDEX_BYTES * config.sequence
    norm_kept = _norm_kept(config, precision)
    kept = float(size * (widths.stream + widths.compute) + logits * _loss_bytes(precision))
    kept += norm_kept + (ids if precision != "mixed" else 0)
    full = kept if precision == "mixed" else float(size * widths.stream + ids)
    loss_traffic = 2 * logits * _loss_bytes(precision) + logits * widths.compute
    return Block(
        name="head",
        kind="head",
        parameters=config.vocabulary * config.hidden + norm,
        tensors=1 + norm_tensors,
        inner=(
            Segment("norm", 0.0, float(2 * size * widths.stream), split=()),
            Collective("all_reduce", "tensor", float(size * widths.compute), "backward"),
            Segment(
                "logits", 2.0 * logits * config.hidden, float((size + logits) * widths.compute)
            ),
            Segment("loss", 0.0, float(loss_traffic)),
        ),
        activation_bytes={"none": kept, "selective": kept, "full": full},
        output_bytes=float(logits * widths.compute),
    )


def _loss_bytes(precision: Precision) -> int:
    """The loss is taken in fp32, or in fp64 when all is."""
    return 8 if precision == "fp64" else 4


def _norm_kept(config: GptConfig, precision: Precision) -> float:
    """Mean and inverse deviation per token (one of them for RMSNorm), kept by a norm."""
    if precision == "mixed":
        return 0.0
    values = 2 if config.norm == "layernorm" else 1
    return float(values * config.sequence * _loss_bytes(precision))


def _transformer(config: GptConfig, widths: _Widths, precision: Precision) -> Block:
    s, h, f = config.sequence, config.hidden, config.inner
    norm, norm_tensors = _norm_parameters(config)
    matrices = 2 if config.mlp == "gelu" else 3
    weights = 4 * h * h + matrices * h * f
    biases = (4 * h + (matrices - 1) * f + h) if config.bias else 0
    linears = 4 + matrices
    kept = _kept_mixed(config) if precision == "mixed" else _kept(config, widths, precision)
    return Block(
        name="layer",
        kind="transformer",
        parameters=weights + biases + 2 * norm,
        tensors=linears * (2 if config.bias else 1) + 2 * norm_tensors,
        inner=_layer_program(config, widths, precision),
        activation_bytes=kept,
        output_bytes=float(s * h * widths.stream),
    )


def _kept_mixed(config: GptConfig) -> dict[str, float]:
    """Korthikanti et al., equations 1 and 6 and section 5, per sample, whole layer.

    With a width or MLP other than theirs, the MLP's 19 s h become 3 s h (input and
    dropout mask) and 4 bytes per inner element (8 for swiglu's two halves and product).
    """
    s, h, f = config.sequence, config.hidden, config.inner
    inner = (4 if config.mlp == "gelu" else 8) * s * f
    light = 11 * s * h + 3 * s * h + inner + 4 * s * h
    scores = 5 * config.heads * s * s
    return {"none": float(light + scores), "selective": float(light), "full": float(2 * s * h)}


def _kept(config: GptConfig, widths: _Widths, precision: Precision) -> dict[str, float]:
    """What autograd keeps of one TransformerBlock for one sample, its input included.

    The residual stream twice (input and middle); inputs of the two groups of products,
    queries, keys, values and the attention's result; the log-sum of every score row;
    and the MLP's inner activations, before and after the non-linearity.
    """
    s, h, f = config.sequence, config.hidden, config.inner
    stream = 2 * s * h * widths.stream
    products = (6 + _casts(config, precision)) * s * h * widths.compute
    log_sums = config.heads * s * _loss_bytes(precision)
    inner = (2 if config.mlp == "gelu" else 4) * s * f * widths.compute
    kept = stream + products + log_sums + inner + 2 * _norm_kept(config, precision)
    return {
        "none": float(kept),
        "selective": float(kept),
        "full": float(s * h * widths.stream),
    }


def _casts(config: GptConfig, precision: Precision) -> int:
    """Further copies of a norm's result: autocast makes one per product that reads it."""
    if precision != "bf16":
        return 0
    return 2 if config.mlp == "gelu" else 3


def _layer_program(
    config: GptConfig, widths: _Widths, precision: Precision
) -> tuple[Segment | Collective, ...]:
    """Segments in forward order. A collective of the backward stands where its forward
    twin (the identity) is: at the input of a column-parallel product."""
    s, h, f = config.sequence, config.hidden, config.inner
    size, inner = s * h * widths.compute, s * f * widths.compute
    stream = s * h * widths.stream
    up = 1 if config.mlp == "gelu" else 2
    scores = 13.0 * config.heads * s * s if precision == "mixed" else 0.0
    exchanged = float(size)
    return (
        Segment("norm1", 0.0, float(2 * stream), split=()),
        Collective("all_reduce", "tensor", exchanged, "backward"),
        Segment("query_key_value", 6.0 * s * h * h, float(4 * size)),
        Segment("attention", 4.0 * s * s * h, 4.0 * size + scores),
        Segment("attention_output", 2.0 * s * h * h, float(2 * size)),
        Collective("all_reduce", "tensor", exchanged, "forward"),
        Segment("residual1", 0.0, float(2 * stream + size), split=()),
        Segment("norm2", 0.0, float(2 * stream), split=()),
        Collective("all_reduce", "tensor", exchanged, "backward"),
        Segment("mlp_up", 2.0 * up * s * h * f, float(size + up * inner)),
        Segment("mlp_activation", 0.0, float((up + 1) * inner)),
        Segment("mlp_down", 2.0 * s * h * f, float(inner + size)),
        Collective("all_reduce", "tensor", exchanged, "forward"),
        Segment("residual2", 0.0, float(2 * stream + size), split=()),
    )
