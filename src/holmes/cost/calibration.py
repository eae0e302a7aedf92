"""Calibration: the few numbers between a catalogue figure and a second.

Two are built in. ``DEFAULT`` stands for GPUs behind NCCL; each coefficient has
its source beside it. ``LAB`` stands for processes on one machine that talk
gloo over shaped links. A measured run may replace any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from holmes.errors import DataError

WIDEST = 0.9
"""No interval is wider: the measured step may take ten times the predicted one."""
CollectiveStyle = Literal["ring", "direct"]
Software = Literal["holmes", "megatron"]


@dataclass(frozen=True)
class BlockTime:
    """Seconds of one block for one micro-batch. Backward includes recomputation, if any.

    Attributes:
        weight: measured, of the weights' gradients where the backward runs in two parts.
        dividing: what both parts together take longer than a backward in one.
    """

    forward: float
    backward: float
    weight: float | None = None
    dividing: float = 0.0

    def __add__(self, other: BlockTime) -> BlockTime:
        known = [weight for weight in (self.weight, other.weight) if weight is not None]
        return BlockTime(
            self.forward + other.forward,
            self.backward + other.backward,
            sum(known) if known else None,
            self.dividing + other.dividing,
        )

    def __sub__(self, other: BlockTime) -> BlockTime:
        return self + other.scaled(-1.0)

    def scaled(self, factor: float) -> BlockTime:
        """All times multiplied by ``factor``."""
        weight = None if self.weight is None else self.weight * factor
        return BlockTime(
            self.forward * factor, self.backward * factor, weight, self.dividing * factor
        )

    def in_parts(self) -> BlockTime:
        """With a backward in two parts."""
        return BlockTime(self.forward, self.backward + self.dividing, self.weight)


@dataclass(frozen=True)
class LinkCalibration:
    """How a transport turns a line rate into seconds.

    One byte costs ``1 / (efficiency x line rate) + seconds_per_byte``: framing
    scales with the wire, copying in the processor does not. An operation costs
    ``latency_seconds`` once and ``step_seconds`` for each hop it makes in a row.

    Attributes:
        connection_bytes_s: what one connection carries at most; None where nothing but the
            line limits it.
        initial_window: bytes that a connection sends before the first acknowledgement; it
            doubles each round trip. None where a sender need not wait.
        passes: how often each round of a collective inside a node moves the whole payload
            through the device's memory, besides what it sends.
    """

    efficiency: float
    latency_seconds: float
    step_seconds: float = 0.0
    seconds_per_byte: float = 0.0
    connection_bytes_s: float | None = None
    initial_window: float | None = None
    passes: float = 0.0

    def bytes_per_second(self, line_bytes_s: float, connections: int | None = None) -> float:
        """What a line of this rate carries over so many connections (None: enough of them)."""
        rate = 1.0 / (1.0 / (self.efficiency * line_bytes_s) + self.seconds_per_byte)
        if connections is None or self.connection_bytes_s is None:
            return rate
        return min(rate, connections * self.connection_bytes_s)

    def opening_seconds(self, bytes_: float, bytes_per_second: float, hop_seconds: float) -> float:
        """Round trips until a connection's window holds what is under way, or all ``bytes_``.

        Slow start (RFC 5681) doubles it from ``initial_window`` each round trip of two hops.
        """
        if self.initial_window is None or hop_seconds <= 0.0:
            return 0.0
        needed = min(bytes_, bytes_per_second * 2 * hop_seconds)
        return 2 * hop_seconds * math.log2(1.0 + needed / self.initial_window)

    def curve(self, bytes_: float, line_bytes_s: float, connections: int) -> float:
        """Bytes per second of a message of this size: the whole of it over its time."""
        rate = self.bytes_per_second(line_bytes_s, connections)
        each = max(1, connections)
        opening = self.opening_seconds(bytes_ / each, rate / each, self.step_seconds)
        return bytes_ / (self.latency_seconds + self.step_seconds + opening + bytes_ / rate)


@dataclass(frozen=True)
class ComputeCoefficients:
    """Analytic time of one segment (see :mod:`holmes.cost.compute`).

    Attributes:
        matmul_fraction: share of the best measured matmul rate that a large
            segment of a real model reaches.
        matmul_fraction_of_peak: stands in for the measured rate where the
            catalogue has only a peak.
        half_intensity: FLOPs per byte of activations at which a matrix product
            reaches half of that rate; narrow products are slower.
        memory_fraction: share of the memory rate that element-wise work reaches.
        launch_seconds: fixed cost of one segment in one direction.
        step_launch_seconds: fixed cost of one optimiser step.
        sustained: by device kind, the share of the peak that large products sustain, for
            kinds whose product rate nobody measured (a power cap, say); wins over the fractions.
        tile_half: side of a product's tile at which a multiprocessor reaches half of its rate.
        ramp: elements of k whose time a tile spends to fill and drain its pipeline.
        unaligned: share of its rate that a product keeps when a side is no multiple of 8
            elements, so that tensor cores cannot load its rows.
        attention_fraction: share of the matmul rate that a fused attention kernel reaches;
            ``attention_of`` gives it for device kinds where it differs.
        gap_seconds: time between two kernels on the device.
        host_seconds: time of the host to launch one kernel; shows where kernels are short.
        compiled_share: share of element-wise traffic that is left when a compiler fuses it.
        arrival_seconds: what a tensor all-reduce waits, for each further member, until all have
            come to it; its two halves, where they are apart, half of that each.
        async_exposed: share of tensor collectives that shows when they run under products.
        overlap_slowdown: seconds that a second of transfers adds to the compute above it,
            since both use multiprocessors and memory.
        straggler: share of a step lost per doubling of the devices that wait for one another.
        transfer_seconds: fixed cost of a stage that waits for a transfer between stages.
        optimizer_passes: how often the optimiser moves its states through memory.
    """

    matmul_fraction: float
    matmul_fraction_of_peak: float
    half_intensity: float
    memory_fraction: float
    launch_seconds: float
    step_launch_seconds: float = 0.0
    sustained: Mapping[str, float] = field(default_factory=dict)
    tile_half: float = 32.0
    ramp: float = 64.0
    unaligned: float = 1.0
    attention_fraction: float = 0.65
    attention_of: Mapping[str, float] = field(default_factory=dict)
    gap_seconds: float = 0.0
    host_seconds: float = 0.0
    arrival_seconds: float = 0.0
    compiled_share: float = 0.6
    async_exposed: float = 0.5
    optimizer_passes: float = 1.0
    transfer_seconds: float = 0.0
    overlap_slowdown: float = 0.0
    straggler: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """Measured or assumed coefficients of compute and network.

    Attributes:
        name: short name, shown beside every prediction.
        source: where the numbers come from, in a sentence.
        compute: coefficients of the analytic model.
        network: by transport name (infiniband, roce, ethernet, intra-node).
        collectives: ``direct`` sends each member's chunk straight to its owner
            (what the runtime does on gloo); ``ring`` is NCCL, which takes the cheapest of
            ring, tree, hierarchical and in-switch.
        without_overlap: how a plan without overlap runs. ``holmes`` posts its transfers ahead
            and gathers parameters; ``megatron`` waits for each transfer and, where the
            optimiser is not sharded, sums whole gradients.
        blocks: measured seconds by device kind and block kind, for one
            micro-batch of ``micro`` samples at relative speed 1; wins over the
            analytic model. Other micro-batch sizes scale in proportion.
        split_blocks: the same by tensor degree, of one rank's share of a block with its
            collectives, one after the other.
        optimizer_seconds_per_element: measured; None means from memory rate.
        drag_seconds_per_byte: seconds of computation that each byte costs which its rank
            exchanges (sends and receives) meanwhile; the event engine alone counts it.
        interval: how large the error of a predicted step may be, as a fraction of what it
            measures.
        fitted_kinds: device kinds whose runs the compute was fitted to; empty where that
            does not matter, as with measured block times.
        interval_elsewhere: ``interval`` for steps in which another kind takes part.
    """

    name: str
    source: str
    compute: ComputeCoefficients
    network: Mapping[str, LinkCalibration]
    collectives: CollectiveStyle = "ring"
    without_overlap: Software = "holmes"
    blocks: Mapping[str, Mapping[str, BlockTime]] = field(default_factory=dict)
    split_blocks: Mapping[int, Mapping[str, Mapping[str, BlockTime]]] = field(default_factory=dict)
    micro: int = 1
    optimizer_seconds_per_element: float | None = None
    drag_seconds_per_byte: float = 0.0
    interval: float = 0.2
    fitted_kinds: tuple[str, ...] = ()
    interval_elsewhere: float = 0.2

    def interval_on(self, kinds: Iterable[str]) -> float:
        """How large the error of a step on these device kinds may be."""
        known = not self.fitted_kinds or set(kinds) <= set(self.fitted_kinds)
        return self.interval if known else max(self.interval, self.interval_elsewhere)

    def bounds(self, seconds: float, kinds: Iterable[str]) -> tuple[float, float]:
        """What a step of predicted ``seconds`` may measure on these kinds: an error is
        predicted / measured - 1, so the bounds lie unequally far."""
        error = min(self.interval_on(kinds), WIDEST)
        return seconds / (1 + error), seconds / (1 - error)

    def with_blocks(
        self,
        blocks: Mapping[str, Mapping[str, BlockTime]],
        *,
        micro: int,
        source: str,
        optimizer_seconds_per_element: float | None = None,
    ) -> Calibration:
        """This calibration with measured (or dictated) block times."""
        return replace(
            self,
            source=source,
            fitted_kinds=(),
            blocks=blocks,
            split_blocks={},
            micro=micro,
            optimizer_seconds_per_element=optimizer_seconds_per_element,
        )

    def measured(self, device: str, kind: str, tensor: int) -> BlockTime | None:
        """What was measured of a block on a device kind, shared by so many tensor ranks."""
        blocks = self.blocks if tensor == 1 else self.split_blocks.get(tensor, {})
        return blocks.get(device, {}).get(kind)

    def link(self, transport: str) -> LinkCalibration:
        """Coefficients of one transport.

        Raises:
            DataError: the calibration does not know it.
        """
        try:
            return self.network[transport]
        except KeyError:
            raise DataError(
                f"calibration {self.name!r} has no figures for {transport}",
                where="calibration.network",
                why="known: " + ", ".join(sorted(self.network)),
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; :func:`calibration_from_dict` reads them back."""
        return {**asdict(self), "fitted_kinds": list(self.fitted_kinds)}


def calibration_from_dict(data: Any, *, where: str = "calibration") -> Calibration:
    """Build a calibration from JSON values.

    Raises:
        DataError: naming the field that is wrong.
    """
    from pydantic import TypeAdapter, ValidationError  # only when a file is read

    try:
        return TypeAdapter(Calibration).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"bad calibration: {first['msg']}", where=f"{where}: {place}") from None


NCCL = {
    # 86-91 of 100 GB/s, 2 x 8 A100 with 4 x 200 Gb/s (NVIDIA/nccl-tests#100, NVIDIA/nccl#1048);
    # latencies: base and network hop of NCCL's own ring table (src/graph/tuning.cc).
    "infiniband": LinkCalibration(0.88, 8.4e-6, 9.6e-6),
    # 75 of 100 GB/s, 8 x 100 Gb/s RoCE (NVIDIA/nccl#495); 231 of 400 also seen (NVIDIA/nccl#2409).
    "roce": LinkCalibration(0.75, 8.4e-6, 9.6e-6),
    # One connection carries what one thread copies: 2.4 GB/s on 32 Gb/s (NVIDIA/nccl#209), 5.2 on
    # 100 Gb/s with two (NVIDIA/nccl#450). Several members of a node open one each, up to 92 % of
    # the line: 2.42, 3.67 and 6.04 GB/s with 1, 2 and 4 (sailor, network_coeffs_all_homo.json).
    # The first window is ten segments (RFC 6928).
    "ethernet": LinkCalibration(
        0.92, 8.4e-6, 50e-6, connection_bytes_s=2.5e9, initial_window=14_600
    ),
    # 197, 222 and 229 of 300 GB/s for 2, 4 and 8 A100: a round moves the payload through memory
    # about 1.2 times besides; the same gives 367 of 450 on H200 and 682 of 900 on B200. 93 us for
    # 1 MiB on 8 A100: 14 steps of 5.5 us (vTrain trace/a100/AR_GPU8).
    "intra-node": LinkCalibration(0.95, 8.4e-6, 5.5e-6, passes=1.2),
}

GLOO = {
    # Rates are solved from two measured points, 16 MiB through htb on two cores, one of them under
    # load: 42.2 ns a byte at 0.2 Gbit/s and 8.96 at 1, against 40 and 8 of the bare wire. That
    # gives framing of 0.96 and 0.65 ns a byte in the processor. Latencies are assumed. Inside a
    # node: exchanges of 16 and 64 KiB in two pairs of ranks at once on two cores, a quiet and a
    # busy machine; a rehearsal measures its own.
    "infiniband": LinkCalibration(0.96, 5e-4, 5e-4, 0.65e-9),
    "roce": LinkCalibration(0.96, 5e-4, 5e-4, 0.65e-9),
    "ethernet": LinkCalibration(0.96, 5e-4, 5e-4, 0.65e-9),
    "intra-node": LinkCalibration(1.0, 0.0, 3e-4, 2e-8),
}

CAPPED = "h100-96g-hbm2e-500w"
CAPPED_WATTS = 500
CAPPED_SHARE = 0.522
"""Of its peak that the H100 of 500 W sustains in runs (fitted)."""
BESIDE_CORES_WATTS = 150
"""What the cores of such a device do not get (assumed)."""
FULL_WATTS = 700
MODULE_WATTS = 550
"""What is assumed to be left for the device where a module's limit is shared with its CPU. GH200
is sold for 450 to 1000 W in all, and the cabinets of large machines bound it (eth-cscs/cscs-docs,
docs/alps/hardware.md: chassis are left partly empty to give each device more)."""
FULL_POWER = ("h100-80g-sxm", "h200-141g-sxm", "h800-80g-sxm", "b200-180g-sxm",
              "b300-288g-sxm", "gb200-186g")  # fmt: skip
MODULES = ("gh200-96g",)
CARD = "h100-80g-pcie"
SINCE_HOPPER = (CAPPED, *FULL_POWER, *MODULES, CARD)


def sustained_at(watts: float) -> float:
    """The share of the peak that the die of the fitted H100 sustains at this power: dynamic power
    goes with the cube of the clock where voltage follows it. The best product of a benchmark is
    reached for moments only. Blackwell, whose best product is the same share of its peak, is
    taken alike; no run of it was seen."""
    cores = (watts - BESIDE_CORES_WATTS) / (CAPPED_WATTS - BESIDE_CORES_WATTS)
    return round(CAPPED_SHARE * math.cbrt(cores), 3)


def card_share() -> float:
    """The share of its peak that the card of 350 W sustains. Its 114 multiprocessors share
    350 - 150 W where the fitted device's 132 share 500 - 150; its peak, 756 against 989 TFLOP/s,
    is counted at a lower clock, so less of it is lost."""
    clock = math.cbrt((200 / 114) / (350 / 132))
    counted = (756 / 114) / (989 / 132)
    return round(CAPPED_SHARE * clock / counted, 3)


# `benchmarks/accuracy.py --fit` fits these to published runs and writes what it found, with priors
# and bounds, to its record; docs/accuracy.md shows them and the errors on rows that were held out.
# Fitted to: 1/4 of the runs of four of the six one-node models (vTrain, MICRO 2024), the 22 B and
# 175 B runs of Korthikanti et al. 2022, three bf16 runs of torchtitan on H100. Rounded.
# Not fitted: async_exposed and attention_fraction (assumed: FlashAttention-2 reaches some 65 % of
# the product rate of an A100), matmul_fraction_of_peak (the share of the peak that the best
# measured product reaches on the kinds of the catalogue, 0.71 to 0.87).
DEFAULT = Calibration(
    name="default",
    source="catalogue figures, coefficients fitted to published runs "
    "(vTrain, Korthikanti et al., torchtitan)",
    compute=ComputeCoefficients(
        matmul_fraction=1.0,
        matmul_fraction_of_peak=0.78,
        half_intensity=18.0,
        memory_fraction=0.947,
        launch_seconds=0.0,
        step_launch_seconds=2.84e-3,
        sustained={
            CAPPED: CAPPED_SHARE,
            CARD: card_share(),
            **dict.fromkeys(FULL_POWER, sustained_at(FULL_WATTS)),
            **dict.fromkeys(MODULES, sustained_at(MODULE_WATTS)),
        },
        tile_half=36.9,
        ramp=106.0,
        unaligned=0.62,
        attention_fraction=0.65,
        attention_of=dict.fromkeys(SINCE_HOPPER, 0.44),
        gap_seconds=3.6e-6,
        host_seconds=64e-6,
        arrival_seconds=16e-6,
        compiled_share=0.81,
        async_exposed=0.5,
        optimizer_passes=1.0,
        transfer_seconds=109e-6,
        overlap_slowdown=0.1,
        straggler=0.0022,
    ),
    network=NCCL,
    without_overlap="megatron",
    # Nine of ten one-node runs lie within 15 %. No run of another kind was fitted; those of GH200
    # and H200, the other kinds with a table, show that 15 % would promise too much.
    interval=0.15,
    fitted_kinds=("a100-80g-sxm", "a100-40g-sxm", "h100-96g-hbm2e-500w"),
    interval_elsewhere=0.5,
)

LAB = Calibration(
    name="lab",
    source="gloo over shaped links, rates from two measured points, latencies assumed; "
    "compute analytic until profiled",
    compute=ComputeCoefficients(
        matmul_fraction=0.7,
        matmul_fraction_of_peak=0.5,
        half_intensity=10.0,
        memory_fraction=0.5,
        launch_seconds=3e-5,
        step_launch_seconds=1e-3,
    ),
    network=GLOO,
    collectives="direct",
    interval=0.15,
)
