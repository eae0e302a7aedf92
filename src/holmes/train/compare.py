"""How far two sets of parameters are apart."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

FURTHEST = sys.float_info.max
"""Stands for infinity, which JSON does not know."""


def relative_difference(a: Tensor, b: Tensor) -> float:
    """max|a - b| / max|a|; 0 for equal tensors, :data:`FURTHEST` where shapes or NaNs differ."""
    if a.shape != b.shape:
        return FURTHEST
    if torch.equal(a, b):
        return 0.0
    scale = a.abs().max().item()
    difference = (a.double() - b.double()).abs().max().item()
    value = difference / scale if scale > 0 else FURTHEST
    return min(value, FURTHEST) if value == value else FURTHEST


def compare_parameters(
    reference: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    zero_gradient: Collection[str] = (),
) -> dict[str, Any]:
    """The rows of a verification, worst first.

    Tensors whose true gradient is zero hold nothing but rounding, so they are
    listed apart and count neither for the maximum nor for bit equality. A tensor
    that one side lacks counts as furthest.
    """
    rows: list[dict[str, Any]] = []
    apart: list[dict[str, Any]] = []
    for name in sorted(set(reference) | set(parameters)):
        both = name in reference and name in parameters
        value = relative_difference(reference[name], parameters[name]) if both else FURTHEST
        row = {"name": name, "max_relative_difference": value}
        (apart if name in zero_gradient else rows).append(row)
    rows.sort(key=lambda row: (-row["max_relative_difference"], row["name"]))
    worst = rows[0]["max_relative_difference"] if rows else 0.0
    return {
        "max_relative_difference": worst,
        "bit_equal": worst == 0.0,
        "parameters": rows,
        "zero_gradient_parameters": apart,
    }
