"""Analytic seconds of a block: roofline per segment, inner collectives on the device link.

Coefficients are in :class:`holmes.cost.calibration.ComputeCoefficients`; device
figures come from the catalogue. One segment in one direction costs::

    max(flops / (R x i / (i + half)), bytes / M) + launch

with R the matmul rate and M the memory rate that real models reach, and i the
FLOPs per byte of activations, which falls with the width of the product. The
backward does the block's ``backward_over_forward`` times the forward work;
full recomputation adds one forward.
"""

from __future__ import annotations

from holmes.cost.calibration import BlockTime, Calibration, ComputeCoefficients
from holmes.errors import ConfigError
from holmes.hardware.catalogue import DeviceKind
from holmes.plan.layout import Recompute
from holmes.workload.workload import Block, Collective, Segment


def block_seconds(
    block: Block,
    device: DeviceKind,
    calibration: Calibration,
    micro: int,
    tp: int = 1,
    recompute: Recompute = "none",
) -> BlockTime:
    """Seconds of one block for a micro-batch of ``micro`` samples on one device.

    Measured block times win over the analytic model when the calibration has
    them for this device kind and block kind (and ``tp`` is 1, where they were
    taken).

    Raises:
        ConfigError: a figure that is needed is missing from the catalogue.
    """
    measured = calibration.blocks.get(device.name, {}).get(block.kind)
    if measured is not None and tp == 1:
        base = measured.scaled(micro / calibration.micro)
    else:
        base = _analytic(block, device, calibration, micro, tp)
    base = base.scaled(1.0 / device.speed)
    inner = _collectives(block, device, calibration, micro, tp)
    again = 0.0
    if recompute == "full":
        again = base.forward + inner.forward
    elif recompute == "selective":
        again = _attention(block, device, calibration, micro, tp) / device.speed
    total = base + inner
    return BlockTime(total.forward, total.backward + again)


def optimizer_seconds(
    elements: float, bytes_per_element: float, device: DeviceKind, calibration: Calibration
) -> float:
    """Seconds of one optimiser step over ``elements`` parameters.

    Measured seconds per element win; otherwise the states are read and written
    once at the memory rate.
    """
    coefficients = calibration.compute
    per_element = calibration.optimizer_seconds_per_element
    if per_element is None:
        rate = _memory_rate(device, coefficients)
        return (
            elements * bytes_per_element / rate + coefficients.step_launch_seconds
        ) / device.speed
    return elements * per_element / device.speed


def segment_seconds(
    segment: Segment, device: DeviceKind, coefficients: ComputeCoefficients, micro: int, tp: int
) -> float:
    """Forward seconds of one segment, launch included."""
    share = tp if "tensor" in segment.split else 1
    flops, bytes_ = segment.flops * micro / share, segment.bytes_ * micro / share
    busy = bytes_ / _memory_rate(device, coefficients)
    if flops > 0.0:
        intensity = segment.flops / max(segment.bytes_, 1.0) / share
        reached = intensity / (intensity + coefficients.half_intensity)
        busy = max(busy, flops / (matmul_rate(device, coefficients) * reached))
    return busy + coefficients.launch_seconds


def matmul_rate(device: DeviceKind, coefficients: ComputeCoefficients) -> float:
    """FLOP/s that a wide matrix product of a real model reaches on this device."""
    if device.matmul_tflops is not None:
        return device.matmul_tflops * 1e12 * coefficients.matmul_fraction
    if device.peak_tflops is not None:
        return device.peak_tflops * 1e12 * coefficients.matmul_fraction_of_peak
    raise _missing(device, "peak_tflops")


def _memory_rate(device: DeviceKind, coefficients: ComputeCoefficients) -> float:
    if device.memory_gbytes_s is None:
        raise _missing(device, "memory_gbytes_s")
    return device.memory_gbytes_s * 1e9 * coefficients.memory_fraction


def _analytic(
    block: Block, device: DeviceKind, calibration: Calibration, micro: int, tp: int
) -> BlockTime:
    coefficients = calibration.compute
    segments = [part for part in block.inner if isinstance(part, Segment)]
    forward = sum(segment_seconds(part, device, coefficients, micro, tp) for part in segments)
    launches = coefficients.launch_seconds * len(segments)
    backward = (forward - launches) * block.backward_over_forward + 2 * launches
    return BlockTime(forward, backward)


def _attention(
    block: Block, device: DeviceKind, calibration: Calibration, micro: int, tp: int
) -> float:
    """What selective recomputation repeats: the attention core (Korthikanti et al., section 5)."""
    return sum(
        segment_seconds(part, device, calibration.compute, micro, tp)
        for part in block.inner
        if isinstance(part, Segment) and part.name == "attention"
    )


def _collectives(
    block: Block, device: DeviceKind, calibration: Calibration, micro: int, tp: int
) -> BlockTime:
    """Tensor-parallel collectives of the block: rings over the links inside a node."""
    if tp == 1:
        return BlockTime(0.0, 0.0)
    if device.link_gbytes_s is None:
        raise _missing(device, "link_gbytes_s")
    link = calibration.link("intra-node")
    rate = link.bytes_per_second(device.link_gbytes_s * 1e9)
    total = {"forward": 0.0, "backward": 0.0}
    for part in block.inner:
        if isinstance(part, Collective) and part.axis == "tensor":
            rounds = 2 if part.op == "all_reduce" else 1
            moved = rounds * (tp - 1) / tp * part.bytes_ * micro
            latency = link.latency_seconds + rounds * (tp - 1) * link.step_seconds
            total[part.direction] += moved / rate + latency
    return BlockTime(total["forward"], total["backward"])


def _missing(device: DeviceKind, figure: str) -> ConfigError:
    return ConfigError(
        f"device kind {device.name!r} has no {figure}",
        where=f"device.{figure}",
        why="the cost model needs it and the catalogue has no source for it",
        next_step=f"give `{figure}` in the site's device entry",
    )
