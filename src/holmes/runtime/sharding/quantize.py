"""Numbers in blocks that share a scale, for the wire: INT8 weights, INT4 gradients.

A block of QUANTIZED_BLOCK elements becomes integers between -m and m, m = 2^(bits-1) - 1, and
one fp32 scale, the largest absolute value over m. Rounding is to the nearest, so no element is
off by more than half a step: :func:`holmes.plan.sharding.error_bound` of the block's largest.
A block with a NaN or an infinity comes out as NaN, so that nobody trains on what is lost.

Packed, a vector of n elements is its integers (two to a byte with 4 bits), padded to whole
blocks, and then the scales: uint8, :func:`packed_bytes` of n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holmes.plan.sharding import QUANTIZED_BLOCK, SCALE_BYTES

HIGH = 16


def packed_bytes(elements: int, bits: int) -> int:
    """Bytes of a packed vector."""
    blocks = -(-elements // QUANTIZED_BLOCK)
    return blocks * (QUANTIZED_BLOCK * bits // 8 + SCALE_BYTES)


def pack(values: Tensor, bits: int, packed: Tensor) -> None:
    """Quantise a vector into ``packed``.

    Args:
        values: [n], floating point.
        bits: 8 or 4.
        packed: [packed_bytes(n, bits)], uint8.
    """
    most = 2 ** (bits - 1) - 1
    blocks = _blocks(values)
    scales = blocks.abs().amax(dim=1) / most
    codes = (blocks / torch.where(scales == 0, 1.0, scales)[:, None]).round_()
    codes = torch.nan_to_num(codes, nan=0.0, posinf=0.0, neginf=0.0).clamp_(-most, most)
    scales = torch.where(scales.isfinite(), scales, torch.nan)
    border = packed.numel() - scales.numel() * SCALE_BYTES
    packed[border:].copy_(scales.view(torch.uint8))
    flat = codes.to(torch.int8).view(-1)
    if bits == 8:
        packed[:border].copy_(flat.view(torch.uint8))
    else:
        shifted = (flat + most).view(torch.uint8)
        packed[:border].copy_(shifted[0::2] * HIGH + shifted[1::2])


def unpack(packed: Tensor, bits: int, values: Tensor) -> None:
    """The inverse of :func:`pack`, into ``values`` [n]."""
    most = 2 ** (bits - 1) - 1
    count = -(-values.numel() // QUANTIZED_BLOCK)
    border = packed.numel() - count * SCALE_BYTES
    scales = packed[border:].clone().view(torch.float32)
    if bits == 8:
        codes = packed[:border].view(torch.int8).float()
    else:
        high, low = packed[:border] // HIGH, packed[:border] % HIGH
        codes = torch.stack([high, low], dim=1).view(-1).float() - most
    blocks = codes.view(count, QUANTIZED_BLOCK) * scales[:, None]
    values.copy_(blocks.view(-1)[: values.numel()])


def _blocks(values: Tensor) -> Tensor:
    """fp32 copy in whole blocks, zeros behind the last element: [blocks, QUANTIZED_BLOCK]."""
    count = -(-values.numel() // QUANTIZED_BLOCK)
    padded = values.new_zeros(count * QUANTIZED_BLOCK, dtype=torch.float32)
    padded[: values.numel()].copy_(values)
    return padded.view(count, QUANTIZED_BLOCK)
