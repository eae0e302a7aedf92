"""Blocks of integers with a scale: error, packing, and what must not be hidden."""

from __future__ import annotations

import math

import pytest
import torch

from holmes.plan.sharding import QUANTIZED_BLOCK, error_bound, wire_width
from holmes.runtime.sharding.quantize import pack, packed_bytes, unpack

SIZES = [1, 7, QUANTIZED_BLOCK, QUANTIZED_BLOCK + 1, 1009]


def there_and_back(values: torch.Tensor, bits: int) -> torch.Tensor:
    packed = torch.empty(packed_bytes(values.numel(), bits), dtype=torch.uint8)
    pack(values, bits, packed)
    found = torch.full_like(values, math.nan)
    unpack(packed, bits, found)
    return found


def plainly(values: torch.Tensor, bits: int) -> list[float]:
    """The slow twin, a number at a time."""
    most, found = 2 ** (bits - 1) - 1, []
    for block in torch.split(values, QUANTIZED_BLOCK):
        scale = block.abs().max() / most
        found += [float(round(float(x / scale)) * scale) if scale else 0.0 for x in block]
    return found


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("elements", SIZES)
def test_error_is_below_the_bound_of_each_block(bits: int, elements: int) -> None:
    generator = torch.Generator().manual_seed(elements)
    values = torch.randn(elements, generator=generator)
    found = there_and_back(values, bits)
    for a, b in zip(
        torch.split(values, QUANTIZED_BLOCK), torch.split(found, QUANTIZED_BLOCK), strict=True
    ):
        assert (a - b).abs().max() <= error_bound(bits) * a.abs().max() * (1 + 1e-6)
    assert found.tolist() == pytest.approx(plainly(values, bits), rel=1e-6)


def test_bounds_and_widths() -> None:
    assert error_bound(8) == 1 / 254
    assert error_bound(4) == 1 / 14
    assert packed_bytes(4 * QUANTIZED_BLOCK, 8) == 4 * QUANTIZED_BLOCK * wire_width(8, 4)
    assert packed_bytes(4 * QUANTIZED_BLOCK, 4) == 4 * QUANTIZED_BLOCK * wire_width(4, 4)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so_in_its_block_alone(bits: int, bad: float) -> None:
    values = torch.ones(3 * QUANTIZED_BLOCK)
    values[QUANTIZED_BLOCK + 5] = bad
    found = there_and_back(values, bits)
    assert found[QUANTIZED_BLOCK : 2 * QUANTIZED_BLOCK].isnan().all()
    assert torch.equal(found[:QUANTIZED_BLOCK], values[:QUANTIZED_BLOCK])
    assert torch.equal(found[2 * QUANTIZED_BLOCK :], values[2 * QUANTIZED_BLOCK :])


@pytest.mark.parametrize("bits", [8, 4])
def test_an_outlier_costs_its_own_block_only(bits: int) -> None:
    values = torch.full((2 * QUANTIZED_BLOCK,), 0.5)
    values[3] = 1e4
    found = there_and_back(values, bits)
    assert found[3] == pytest.approx(1e4, rel=1e-6)
    assert not found[:3].any()
    assert found[QUANTIZED_BLOCK:].tolist() == pytest.approx([0.5] * QUANTIZED_BLOCK, rel=1e-6)


def test_zeros_stay_zeros() -> None:
    assert not there_and_back(torch.zeros(300), 8).any()
