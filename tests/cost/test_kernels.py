"""Products by tiles: a brute-force twin, quantisation by hand, and limits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holmes.cost.calibration import DEFAULT
from holmes.cost.kernels import (
    LEAST_DEPTH,
    PARTIAL_SUM_BYTES,
    SPLITS,
    TILES,
    Rates,
    aligned,
    attention_seconds,
    matmul_rate,
    product_seconds,
    rates_of,
)
from holmes.hardware.catalogue import resolve
from holmes.hardware.site import Device
from holmes.workload.products import AttentionCore, MatrixProduct

A100 = resolve(Device(kind="a100-80g-sxm"))
H100 = resolve(Device(kind="h100-80g-sxm"))
RATES = Rates(matmul=108e12, memory=1e12, multiprocessors=108)
RAMP, HALF = 100.0, 50.0
SIZES = st.integers(1, 4096)


def twin(product: MatrixProduct, rates: Rates) -> float:
    """Every tile and split, tile after tile dealt to the multiprocessors."""
    assert rates.multiprocessors is not None
    found = []
    for (rows, columns), split in itertools.product(TILES, SPLITS):
        if split > 1 and product.k / split < LEAST_DEPTH:
            continue
        side = 2 / (1 / rows + 1 / columns)
        big = 2 / (1 / TILES[0][0] + 1 / TILES[0][1])
        speed = (side / (side + HALF)) / (big / (big + HALF))
        each = 2 * rows * columns * (product.k / split + RAMP)
        each /= rates.matmul / rates.multiprocessors * speed
        down = len(range(0, product.m, rows))
        across = len(range(0, product.n, columns))
        busy = [0] * int(rates.multiprocessors)
        tiles = product.count * down * across * split
        for index in range(min(tiles, 108)):
            busy[index] = len(range(index, tiles, 108))
        parts = PARTIAL_SUM_BYTES * split * product.m * product.n * product.count
        moved = 2 * product.elements() + (parts if split > 1 else 0)
        found.append(max(max(busy) * each, moved / rates.memory))
    return min(found)


@given(m=SIZES, n=SIZES, k=SIZES, count=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_equals_the_twin(m: int, n: int, k: int, count: int) -> None:
    product = MatrixProduct(m, n, k, count)
    assert product_seconds(product, RATES, RAMP, HALF, 2) == pytest.approx(twin(product, RATES))


def test_a_tile_more_than_the_last_wave_holds_costs_a_wave() -> None:
    """Deep and wide enough that no smaller tile helps: 108 tiles of 256 x 128, then 109."""
    full = MatrixProduct(256 * 12, 128 * 9, 256)
    assert full.m / 256 * full.n / 128 == RATES.multiprocessors
    tile = 2 * 256 * 128 * (256 + RAMP) / (RATES.matmul / 108)
    assert product_seconds(full, RATES, RAMP, 1e6, 2) == pytest.approx(tile)
    more = replace(full, count=2)
    assert product_seconds(more, RATES, RAMP, 1e6, 2) == pytest.approx(2 * tile)


def test_large_products_run_at_the_rate_and_thin_ones_at_the_memory_rate() -> None:
    large = MatrixProduct(256 * 108, 128 * 64, 65536)
    assert product_seconds(large, RATES, RAMP, HALF, 2) == pytest.approx(
        large.flops / RATES.matmul, rel=0.01
    )
    thin = MatrixProduct(1, 65536, 65536)
    assert product_seconds(thin, RATES, RAMP, HALF, 2) >= 2 * thin.elements() / RATES.memory
    unknown = replace(RATES, multiprocessors=None)
    assert product_seconds(thin, unknown, RAMP, HALF, 2) == thin.flops / RATES.matmul


def test_rates_follow_kind_and_width() -> None:
    c = DEFAULT.compute
    assert matmul_rate(A100, c) == pytest.approx(271.2e12 * c.matmul_fraction)
    assert matmul_rate(H100, c, 1) / matmul_rate(H100, c) == pytest.approx(1402.6 / 794.5)
    assert matmul_rate(A100, c, 4) / matmul_rate(A100, c) == pytest.approx(156 / 312)
    capped = resolve(Device(kind="h100-96g-hbm2e-500w"))
    assert matmul_rate(capped, c) < matmul_rate(H100, c)
    assert math.isclose(rates_of(H100, c).memory, 3350e9 * c.memory_fraction)


def test_a_causal_core_does_half_and_stays_in_half_precision() -> None:
    core = AttentionCore(8, 8, 1024, 1024, 64)
    causal = attention_seconds(core, 1e12, H100, DEFAULT.compute)
    full = attention_seconds(replace(core, causal=False), 1e12, H100, DEFAULT.compute)
    assert full == pytest.approx(2 * causal)
    fraction = DEFAULT.compute.attention_of["h100-80g-sxm"]
    assert full == pytest.approx(1e12 / (matmul_rate(H100, DEFAULT.compute) * fraction))


def test_sides_that_are_no_multiple_of_eight_are_not_aligned() -> None:
    assert aligned(MatrixProduct(1024, 50304, 1024))
    table = MatrixProduct(1024, 50257, 1024)
    assert not any(aligned(one) for one in (table, *table.backward()))


def test_more_power_sustains_more_but_not_the_best_of_a_benchmark() -> None:
    capped, full = (
        matmul_rate(resolve(Device(kind=kind)), DEFAULT.compute)
        for kind in ("h100-96g-hbm2e-500w", "h100-80g-sxm")
    )
    assert H100.matmul_tflops is not None
    assert capped < full < H100.matmul_tflops * 1e12
    assert full / capped == pytest.approx((550 / 350) ** (1 / 3), rel=1e-2)
