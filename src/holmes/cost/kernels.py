"""Seconds of single kernels on a device: matrix products, attention, element-wise work.

A matrix product is cut into tiles that the multiprocessors work off in waves::

    waves x tile_flops x (1 + ramp / k) / rate(tile)        compute
    bytes of operands and result / memory rate              memory

and takes the larger of the two. ``rate(tile)`` is what one multiprocessor
reaches with a tile of this shape; small tiles reuse less of what they load. A
library picks the best tile and may split k among multiprocessors, at the price
of adding the parts in memory; so does this model. It is the scheme of NVIDIA's
"Matrix Multiplication Background User's Guide" (tile and wave quantisation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from holmes.cost.calibration import ComputeCoefficients
from holmes.errors import ConfigError
from holmes.hardware.catalogue import DeviceKind
from holmes.workload.products import AttentionCore, MatrixProduct

TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64))
SPLITS = (1, 2, 4, 8, 16)
LEAST_DEPTH = 256
"""A k is not split into shorter parts than this."""
PARTIAL_SUM_BYTES = 8
"""A part of a split k is written and read in fp32."""
FP8_OVER_HALF = 1402.6 / 794.5
"""Best measured fp8 over best measured bf16 product on H100; for kinds without an fp8 figure."""
SINGLE_OVER_HALF = 0.5
"""TF32 over half precision on tensor cores that have it, for kinds without a figure."""
ALIGNED = 8
BIG_TILE = TILES[0]
HALF_BYTES = 2
CAST_BYTES = 2 * HALF_BYTES + 1


@dataclass(frozen=True)
class Rates:
    """What one device does at full stretch: FLOP/s, bytes/s, multiprocessors (None: unknown)."""

    matmul: float
    memory: float
    multiprocessors: float | None


def rates_of(device: DeviceKind, coefficients: ComputeCoefficients, width: int = 2) -> Rates:
    """The rates of a device kind for elements of ``width`` bytes.

    Raises:
        ConfigError: the catalogue lacks a figure.
    """
    if device.memory_gbytes_s is None:
        raise missing(device, "memory_gbytes_s")
    return Rates(
        matmul=matmul_rate(device, coefficients, width),
        memory=device.memory_gbytes_s * 1e9 * coefficients.memory_fraction,
        multiprocessors=device.multiprocessors,
    )


def matmul_rate(device: DeviceKind, coefficients: ComputeCoefficients, width: int = 2) -> float:
    """FLOP/s that a large matrix product of a real model sustains on this device."""
    sustained = coefficients.sustained.get(device.name)
    if sustained is not None and device.peak_tflops is not None:
        half = device.peak_tflops * 1e12 * sustained
    elif device.matmul_tflops is not None:
        half = device.matmul_tflops * 1e12 * coefficients.matmul_fraction
    elif device.peak_tflops is not None:
        half = device.peak_tflops * 1e12 * coefficients.matmul_fraction_of_peak
    else:
        raise missing(device, "peak_tflops")
    return half * _precision_ratio(device, width)


def _precision_ratio(device: DeviceKind, width: int) -> float:
    """How much faster or slower than half precision products of this width run."""
    if width == 1:
        if device.matmul_fp8_tflops and device.matmul_tflops:
            return device.matmul_fp8_tflops / device.matmul_tflops
        return FP8_OVER_HALF if device.peaks.get("fp8") or not device.peaks else 1.0
    if width == 4 and device.peak_tflops is not None and device.peak_precision != "fp32":
        single = device.peaks.get("tf32", device.peaks.get("fp32"))
        return SINGLE_OVER_HALF if single is None else single / device.peak_tflops
    return 1.0


@lru_cache(maxsize=100_000)
def product_seconds(
    product: MatrixProduct, rates: Rates, ramp: float, tile_half: float, width: int
) -> float:
    """Seconds of a product of the shape that one rank computes, without its launch.

    Args:
        ramp: elements of k whose time a tile needs to fill and drain its pipeline.
        tile_half: tile side at which a multiprocessor reaches half of its rate.
        width: bytes per element.
    """
    if rates.multiprocessors is None:
        return product.flops / rates.matmul
    bytes_ = width * product.elements()
    best = math.inf
    full = _reached(BIG_TILE, tile_half)
    for tile in TILES:
        tiles = product.count * math.ceil(product.m / tile[0]) * math.ceil(product.n / tile[1])
        each = rates.matmul / rates.multiprocessors * _reached(tile, tile_half) / full
        for split in SPLITS:
            depth = product.k / split
            if split > 1 and depth < LEAST_DEPTH:
                break
            waves = math.ceil(tiles * split / rates.multiprocessors)
            compute = waves * 2.0 * tile[0] * tile[1] * (depth + ramp) / each
            extra = 0.0
            if split > 1:
                extra = PARTIAL_SUM_BYTES * split * product.m * product.n * product.count
            best = min(best, max(compute, (bytes_ + extra) / rates.memory))
    return best


def aligned(product: MatrixProduct) -> bool:
    """Whether tensor cores can load every row: sides are multiples of 8 elements (NVIDIA's
    "Matrix Multiplication Background User's Guide", requirements to use tensor cores)."""
    return not (product.m % ALIGNED or product.n % ALIGNED or product.k % ALIGNED)


def _reached(tile: tuple[int, int], tile_half: float) -> float:
    side = 2.0 * tile[0] * tile[1] / (tile[0] + tile[1])
    return side / (side + tile_half)


def attention_seconds(
    core: AttentionCore, flops: float, device: DeviceKind, coefficients: ComputeCoefficients
) -> float:
    """Forward seconds of a fused attention core of ``flops`` over the full square.

    Its products stay in half precision, whatever the other products' is; a causal core
    does the half below the diagonal.
    """
    needed = 0.5 if core.causal and core.queries == core.keys else 1.0
    fraction = coefficients.attention_of.get(device.name, coefficients.attention_fraction)
    return flops * needed / (matmul_rate(device, coefficients, HALF_BYTES) * fraction)


def cast_seconds(product: MatrixProduct, rates: Rates, operands: int = 2) -> float:
    """Scaling the first half-precision operands of an fp8 product: read twice, written once."""
    sizes = product.m * product.k, product.k * product.n
    return CAST_BYTES * product.count * sum(sizes[:operands]) / rates.memory


def missing(device: DeviceKind, figure: str) -> ConfigError:
    """The error of a figure that the catalogue does not have."""
    return ConfigError(
        f"device kind {device.name!r} has no {figure}",
        where=f"device.{figure}",
        why="the cost model needs it and the catalogue has no source for it",
        next_step=f"give `{figure}` in the site's device entry",
    )
