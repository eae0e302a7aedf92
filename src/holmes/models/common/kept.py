"""Activation bytes of a decoder layer, item by item, by recomputation mode. No torch.

One list serves both accounts. With dropout masks and without statistics it is
Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
Models": 34 s h + 5 a s^2 bytes, of which 10 s h stay whole on every tensor rank
(equations 1 and 2). Without masks and with statistics it is what autograd keeps of the
plain torch model.

Selective recomputation drops what an unfused core keeps of its scores (their section 5).
A fused core keeps nothing of that size; there, selective means to keep the block's
input, the attention's result and every second matrix product, in the order query, key,
value, output, gate, up, down, and to repeat the rest (the policy per operator of
torchtitan).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from holmes.models.common.shape import DecoderShape


@dataclass(frozen=True)
class Item:
    """One kept tensor. ``whole``: every tensor rank keeps all of it."""

    name: str
    bytes_: float
    whole: bool


def layer_kept(shape: DecoderShape) -> tuple[dict[str, float], dict[str, float]]:
    """(all, whole) bytes of one sample by recomputation mode, the layer's input included."""
    everything = [*_attention(shape), *_mlp(shape)]
    if shape.attention == "unfused" or shape.core_again:
        selective = [item for item in everything if item.name != "scores"]
    else:
        selective = _every_second_product(shape)
    full = [Item("input", _stream(shape), whole=True)]
    modes = {"none": everything, "selective": selective, "full": full}
    return (
        {mode: _total(items) for mode, items in modes.items()},
        {mode: _total(item for item in items if item.whole) for mode, items in modes.items()},
    )


def repeated_shares(shape: DecoderShape) -> dict[str, float]:
    """Segment name to the part of its forward that selective recomputation repeats."""
    if shape.attention == "unfused" or shape.core_again:
        return {"attention": 1.0}
    keys = shape.key_width / (shape.query_width + 2 * shape.key_width)
    whole = (
        *("norm1", "qk_norm", "rotary", "attention_output"),
        *("residual1", "norm2", "mlp_activation"),
    )
    # Of gate and up, the second is repeated; up alone is the one that is kept.
    part = {"query_key_value": keys, "mlp_up": 0.5 if shape.gated else 0.0}
    return {**dict.fromkeys(whole, 1.0), **part}


def _attention(shape: DecoderShape) -> list[Item]:
    s, h, c = shape.sequence, shape.hidden, shape.widths.compute
    # An unfused core repeats the keys and values that several heads share.
    q = shape.query_width
    keys = q if shape.attention == "unfused" else shape.key_width
    items = [
        Item("input", _stream(shape), whole=True),
        Item("norm1", (1 + _casts(shape)[0]) * s * h * c, whole=True),
        Item("statistics1", shape.norm_statistics, whole=True),
        Item("queries", s * q * c, whole=False),
        Item("keys_values", 2 * s * keys * c, whole=False),
        Item("mixed", s * q * c, whole=False),
    ]
    if shape.qk_norm:
        rows, k, wide = (shape.heads + shape.key_heads) * s, shape.head_size, shape.widths.loss
        # Plain torch keeps the wide input, what it is before the weight, and a number per row.
        size = rows * (2 * k * wide + wide) if shape.statistics else rows * k * c
        items.append(Item("qk_norm", size, whole=False))
    if shape.attention == "unfused":
        # softmax; with dropout also its result and the mask
        each = 2 * c + 1 if shape.dropout else c
        items.append(Item("scores", shape.heads * s * s * each, whole=False))
    elif shape.statistics:
        items.append(Item("log_sums", shape.heads * s * shape.widths.loss, whole=False))
    if shape.dropout:
        items.append(Item("mask1", s * h, whole=True))
    return items


def _mlp(shape: DecoderShape) -> list[Item]:
    s, h, c = shape.sequence, shape.hidden, shape.widths.compute
    copies = shape.top_k or 1
    inner = copies * s * shape.inner * c
    items = [
        Item("middle", _stream(shape), whole=True),
        Item("norm2", (1 + _casts(shape)[1]) * s * h * c, whole=True),
        Item("statistics2", shape.norm_statistics, whole=True),
        # gelu keeps its input and result; silu(gate) * up all four
        Item("inner", (4 if shape.gated else 2) * inner, whole=False),
    ]
    if shape.experts:
        # router's probabilities; tokens as sent to experts, and as they come back
        items.append(Item("router", s * shape.experts * shape.widths.loss, whole=True))
        items.append(Item("dispatched", 2 * copies * s * h * c, whole=True))
    if shape.dropout:
        items.append(Item("mask2", s * h, whole=True))
    return items


def _every_second_product(shape: DecoderShape) -> list[Item]:
    s, h, c = shape.sequence, shape.hidden, shape.widths.compute
    copies = shape.top_k or 1
    items = [
        Item("input", _stream(shape), whole=True),
        Item("queries", s * shape.query_width * c, whole=False),
        Item("values", s * shape.key_width * c, whole=False),
        Item("mixed", s * shape.query_width * c, whole=False),
        Item("log_sums", shape.heads * s * shape.widths.loss, whole=False),
        Item("first_inner", copies * s * shape.inner * c, whole=False),
    ]
    if shape.gated and not shape.compiled:  # no backward reads it
        items.append(Item("down", copies * s * h * c, whole=True))
    return items


def _casts(shape: DecoderShape) -> tuple[int, int]:
    """Further copies of the two norms' results: autocast makes one per product that reads it."""
    if shape.precision not in ("bf16", "fp16"):
        return 0, 0
    return 2, shape.matrices_up - 1


def _stream(shape: DecoderShape) -> float:
    return float(shape.sequence * shape.hidden * shape.widths.stream)


def _total(items: Iterable[Item]) -> float:
    return float(sum(item.bytes_ for item in items))
