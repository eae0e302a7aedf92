"""DecoderShape -> Workload: embedding, layers, head. No torch."""

from __future__ import annotations

from dataclasses import replace

from holmes.models.common.ends import embedding_block, head_block
from holmes.models.common.layer import layer_block
from holmes.models.common.shape import DecoderShape
from holmes.workload import Workload


def decoder_workload(shape: DecoderShape, family: str, name: str) -> Workload:
    """The model as a chain of ``layers`` + 2 blocks."""
    layer, widths = layer_block(shape), shape.widths
    layers = tuple(replace(layer, name=f"layer.{index}") for index in range(shape.layers))
    return Workload(
        name=name,
        family=family,
        sequence=shape.sequence,
        hidden=shape.hidden,
        heads=shape.heads,
        vocabulary=shape.vocabulary,
        blocks=(embedding_block(shape), *layers, head_block(shape)),
        parameter_bytes=widths.parameter,
        gradient_bytes=widths.gradient,
        optimizer_bytes=widths.optimizer,
        tied=(0, shape.layers + 1) if shape.tied else None,
        tied_parameters=shape.vocabulary * shape.hidden if shape.tied else 0,
        key_heads=shape.key_heads,
        head_size=shape.head_size,
        compute_bytes=widths.compute,
        attention=shape.attention,
        experts=shape.experts,
    )
