"""Analytic seconds of a block: kernels on the device, launches on the host, inner collectives.

Coefficients are in :class:`holmes.cost.calibration.ComputeCoefficients`; device
figures come from the catalogue. The device runs the kernels of a block one
after the other, each with a small gap (:mod:`holmes.cost.kernels`); the host
has to launch them. A block takes the longer of the two, then its tensor
collectives. A segment whose products are not described costs::

    max(flops / (R x i / (i + half)), bytes / M) + launch

with R the matmul rate and M the memory rate that real models reach, and i the
FLOPs per byte of activations, which falls with the width of the product.
Recomputation repeats the forward, or its selective part, before the backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from holmes.cost.calibration import BlockTime, Calibration, ComputeCoefficients
from holmes.cost.execution import (
    PLAIN,
    Execution,
    both_ways,
    repeated_seconds,
    tensor_collectives,
)
from holmes.cost.kernels import (
    HALF_BYTES,
    Rates,
    aligned,
    attention_seconds,
    cast_seconds,
    product_seconds,
    rates_of,
)
from holmes.cost.overlap import hidden_seconds
from holmes.hardware.catalogue import DeviceKind
from holmes.plan.layout import Recompute
from holmes.workload.workload import Block, Collective, Segment

ACCUMULATION_PASSES = 3
TABLE_PASSES = 2
SOFTMAX_BATCHES = 4
"""Samples times heads on a rank that Megatron-LM's fused softmax takes are multiples of this
(megatron/model/fused_softmax.py, is_kernel_available)."""
SOFTMAX_STEPS = 4
"""Instead it casts to fp32, scales, masks, takes the softmax and casts back: four kernels more."""
NEWEST_ATTENTION = 1.5
"""How much faster attention is that is written for Hopper than FlashAttention-2 there: the lower
end of what Shah et al. 2024 (FlashAttention-3) report; that of cuDNN is near."""
SHARPNESS = 4
"""Exponent that joins device and host time; infinite would be their maximum."""


@dataclass(frozen=True)
class _Cost:
    """Seconds on the device, and launches the host has to make."""

    seconds: float = 0.0
    kernels: float = 0.0

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(self.seconds + other.seconds, self.kernels + other.kernels)

    def part(self, share: float) -> _Cost:
        return _Cost(self.seconds * share, self.kernels * share)


@dataclass(frozen=True)
class _Segments:
    """Prices the segments of one rank's micro-batch."""

    device: DeviceKind
    coefficients: ComputeCoefficients
    micro: int
    tp: int
    how: Execution

    @cached_property
    def rates(self) -> Rates:
        return rates_of(self.device, self.coefficients, self.how.width)

    def forward(self, segment: Segment) -> _Cost:
        c = self.coefficients
        busy = self._products(segment, backward=False)
        if busy is None:
            busy = self._roofline(segment)
        elif segment.kind == "attention" or not segment.products:
            busy += self._memory(segment, segment.bytes_)
        return self._launched(segment, busy, self._kernels(segment), c) + self._softmax(segment)

    def backward(self, segment: Segment, over_forward: float) -> _Cost:
        c = self.coefficients
        busy = self._products(segment, backward=True)
        kernels = self._kernels(segment) + len(segment.products)
        if busy is None:
            forward = self._roofline(segment)
            return self._launched(segment, forward * over_forward, 2 * kernels, c)
        if segment.kind == "attention" or not segment.products:
            bytes_ = segment.backward_bytes
            busy += self._memory(segment, 2.0 * segment.bytes_ if bytes_ is None else bytes_)
        return self._launched(segment, busy, kernels, c) + self._softmax(segment)

    def _softmax(self, segment: Segment) -> _Cost:
        """Kernels more where Megatron-LM's fused softmax does not take the batch of heads."""
        core = segment.attention
        if core is None or core.fused:
            return _Cost()
        if -(-core.heads // self.tp) * self.micro % SOFTMAX_BATCHES == 0:
            return _Cost()
        return _Cost(SOFTMAX_STEPS * self.coefficients.gap_seconds, SOFTMAX_STEPS)

    def accumulation(self, block: Block) -> _Cost:
        """Adding a micro-batch's weight gradients to the sum: both read, one written.

        A token table's gradient is as large as the table: it is cleared and written first.
        """
        if not any(isinstance(p, Segment) and p.weight_bytes for p in block.inner):
            passes = ACCUMULATION_PASSES + TABLE_PASSES if block.kind == "embedding" else 0
        else:
            passes = ACCUMULATION_PASSES
        held = block.parameters_on_rank(self.tp)
        return _Cost(passes * HALF_BYTES * held / self.rates.memory)

    def _launched(
        self, segment: Segment, busy: float, kernels: float, c: ComputeCoefficients
    ) -> _Cost:
        fixed = c.launch_seconds * (1 if kernels <= segment.kernels else 2)
        return _Cost(busy + fixed + c.gap_seconds * kernels, kernels)

    def _kernels(self, segment: Segment) -> float:
        fused = self.how.compiled and segment.kind == "elementwise"
        return 1.0 if fused else float(segment.kernels)

    def _products(self, segment: Segment, *, backward: bool) -> float | None:
        """Seconds of products and fused attention; None where only FLOPs are described."""
        core = segment.attention
        c = self.coefficients
        if core is not None and core.fused:
            flops = segment.flops * self.micro * self._share(segment)
            factor = core.backward_over_forward if backward else 1.0
            seconds = attention_seconds(core, flops, self.device, c) * factor
            newest = self.how.newest_attention and self.device.name in c.attention_of
            return seconds / NEWEST_ATTENTION if newest else seconds
        if not segment.products:
            return None if segment.flops else 0.0
        # A scale of a whole operand serves both products that read it: what a backward scales
        # anew is the gradient, the first operand of its first product. Rows of a transposed
        # operand are others, so that each product scales both of its own.
        scaled = [(product, 2) for product in segment.products]
        if backward:
            both = 2 if self.how.row_scales else 0
            pairs = (product.backward() for product in segment.products)
            scaled = [pair for a, b in pairs for pair in ((a, both or 1), (b, both))]
        total = 0.0
        for shape, operands in scaled:
            mine = shape.on_rank(self.micro, self.tp, self.how.context)
            seconds = product_seconds(mine, self.rates, c.ramp, c.tile_half, self.how.width)
            total += seconds if aligned(mine) else seconds / c.unaligned
            if self.how.width < HALF_BYTES:
                total += cast_seconds(mine, self.rates, operands)
        return total

    def _memory(self, segment: Segment, bytes_: float) -> float:
        moved = bytes_ * self.micro * self._share(segment)
        if self.how.compiled and segment.kind == "elementwise":
            moved *= self.coefficients.compiled_share
        return moved / self.rates.memory

    def _roofline(self, segment: Segment) -> float:
        """The rule for segments without shapes."""
        share = self._share(segment)
        flops, bytes_ = segment.flops * self.micro * share, segment.bytes_ * self.micro * share
        busy = bytes_ / self.rates.memory
        if flops > 0.0:
            intensity = segment.flops / max(segment.bytes_, 1.0) * share
            reached = intensity / (intensity + self.coefficients.half_intensity)
            busy = max(busy, flops / (self.rates.matmul * reached))
        return busy

    def _share(self, segment: Segment) -> float:
        return segment.share(self.tp, self.how.context, self.how.sequence_parallel)


def block_seconds(
    block: Block,
    device: DeviceKind,
    calibration: Calibration,
    micro: int,
    tp: int = 1,
    recompute: Recompute = "none",
    how: Execution = PLAIN,
) -> BlockTime:
    """Seconds of one block for a micro-batch of ``micro`` samples on one device.

    Measured block times win over the analytic model when the calibration has them for this
    device kind and block kind, and for ``tp`` ranks; with those of one rank alone, the share
    of one of ``tp`` is as the analytic model has it.

    Raises:
        ConfigError: a figure that is needed is missing from the catalogue.
    """
    return block_modes(block, device, calibration, micro, tp, how)[recompute]


def block_modes(
    block: Block,
    device: DeviceKind,
    calibration: Calibration,
    micro: int,
    tp: int = 1,
    how: Execution = PLAIN,
) -> dict[Recompute, BlockTime]:
    """:func:`block_seconds` of every recomputation mode: they differ in what is repeated.

    Raises:
        ConfigError: a figure that is needed is missing from the catalogue.
    """
    if block.kind == "head":
        how = replace(how, width=max(how.width, HALF_BYTES))  # fp8 recipes leave it out
    talk = tensor_collectives(block, device, calibration, (micro, tp), how)
    inner = both_ways(talk)
    segments = _Segments(device, calibration.compute, micro, tp, how)
    parts = [part for part in block.program(how.sequence_parallel) if isinstance(part, Segment)]
    each = [segments.forward(part) for part in parts]

    def hidden(busy: float) -> BlockTime:
        """Of the collectives, where the forward computes for ``busy`` seconds."""
        counted = sum(cost.seconds for cost in each)
        scale = max(0.0, busy) / counted if counted else 0.0
        return hidden_seconds(
            block,
            device,
            calibration,
            (micro, tp),
            how,
            lambda part: scale * segments.forward(part).seconds,
        )

    measured = _measured(block, calibration, segments, parts, inner)
    if measured is None:
        inner -= hidden(sum(cost.seconds for cost in each))
        return _analytic(block, segments, parts, each, inner, talk)
    measured = measured.scaled(micro / calibration.micro)
    base = measured - hidden(measured.forward - inner.forward)
    base = base.scaled(1.0 / device.speed)
    return {
        "none": base,
        "selective": base + BlockTime(0.0, _selective(parts, each).seconds),
        "full": base + BlockTime(0.0, base.forward if _repeats(block) else 0.0),
    }


def _measured(
    block: Block,
    calibration: Calibration,
    segments: _Segments,
    parts: Sequence[Segment],
    inner: BlockTime,
) -> BlockTime | None:
    """What was measured of a block: with its tensor ranks, or else whole, less what they share
    and more what they say to each other (``inner``)."""
    name, tp = segments.device.name, segments.tp
    found = calibration.measured(name, block.kind, tp)
    if found is None and (whole := calibration.measured(name, block.kind, 1)):
        alone = replace(segments, tp=1)
        mine, all_ = (sum(one.forward(p).seconds for p in parts) for one in (segments, alone))
        return whole.scaled(mine / all_ if all_ else 1.0 / tp) + inner
    return found


def _selective(parts: Sequence[Segment], each: Sequence[_Cost]) -> _Cost:
    """What selective recomputation repeats of the forward."""
    return sum((c.part(p.selective) for c, p in zip(each, parts, strict=True)), _Cost())


def _analytic(
    block: Block,
    segments: _Segments,
    parts: Sequence[Segment],
    each: Sequence[_Cost],
    inner: BlockTime,
    talk: Sequence[tuple[Collective, float]],
) -> dict[Recompute, BlockTime]:
    """Every mode from the forward of each part and the collectives that nothing hides (``inner``;
    ``talk`` has them one by one)."""
    forward = sum(each, _Cost())
    backward = sum((segments.backward(p, block.backward_over_forward) for p in parts), _Cost())
    backward += segments.accumulation(block)
    again_forward, again_inner = forward, inner.forward
    if segments.how.stops_early:
        last = max((i for i, part in enumerate(parts) if part.weight_bytes), default=len(parts))
        again_forward, again_inner = sum(each[:last], _Cost()), repeated_seconds(talk)
    again: dict[Recompute, tuple[_Cost, float]] = {
        "none": (backward, 0.0),
        "selective": (backward + _selective(parts, each), 0.0),
        "full": (backward + again_forward, again_inner) if _repeats(block) else (backward, 0.0),
    }
    host, tp = segments.coefficients.host_seconds, segments.tp
    calls = sum(isinstance(p, Collective) and p.axis == "tensor" for p in block.inner) * (tp > 1)
    ahead = _slower(forward.seconds + inner.forward, (forward.kernels + calls) * host)
    return {
        mode: BlockTime(
            ahead,
            _slower(cost.seconds + inner.backward + more, (cost.kernels + calls) * host),
        ).scaled(1.0 / segments.device.speed)
        for mode, (cost, more) in again.items()
    }


def _slower(device: float, host: float) -> float:
    """The longer of device and host, more where they are close: then some kernels are shorter
    than their launch, and others longer."""
    return float((device**SHARPNESS + host**SHARPNESS) ** (1.0 / SHARPNESS))


def _repeats(block: Block) -> bool:
    """Whether full recomputation repeats this block: what it then keeps is less."""
    kept = block.activation_bytes
    return kept.get("full", 0.0) < kept.get("none", 1.0)


def optimizer_seconds(
    elements: float, bytes_per_element: float, device: DeviceKind, calibration: Calibration
) -> float:
    """Seconds of one optimiser step over ``elements`` parameters.

    Measured seconds per element win; otherwise the states are read and written
    at the memory rate, as often as ``optimizer_passes`` says.
    """
    c = calibration.compute
    per_element = calibration.optimizer_seconds_per_element
    if per_element is None:
        moved = elements * bytes_per_element * c.optimizer_passes
        return (moved / rates_of(device, c).memory + c.step_launch_seconds) / device.speed
    return elements * per_element / device.speed
