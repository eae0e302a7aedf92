"""How training software runs a block, and the seconds of its tensor-parallel collectives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from holmes.cost.calibration import BlockTime, Calibration, CollectiveStyle, LinkCalibration
from holmes.cost.collectives import SMALL_BYTES, SMALL_STEP, SWITCH_SHARE
from holmes.cost.kernels import HALF_BYTES, missing, rates_of
from holmes.hardware.catalogue import DeviceKind
from holmes.workload.workload import Block, Collective


@dataclass(frozen=True)
class TensorLink:
    """What the tensor group of a block talks over: bytes per second, and latencies.

    ``local_seconds_per_byte`` is the payload's way through memory in each round,
    ``switch_adds`` says that the switch sums an all-reduce, ``direct`` that members send
    straight to the owner of a part, all at once.
    """

    bytes_per_second: float
    latency_seconds: float
    step_seconds: float
    local_seconds_per_byte: float = 0.0
    switch_adds: bool = False
    direct: bool = False

    def seconds(self, op: str, payload: float, members: int) -> float:
        """A collective of ``payload`` bytes at full size, by ring or switch, as
        :meth:`holmes.cost.network.Network.collective` has it inside one node."""
        rounds = 2 if op == "all_reduce" else 1
        sent = rounds * payload * (members - 1) / members
        if self.direct:
            steps = 2 * (members - 1) if op == "all_reduce" else 1
            latency = self.latency_seconds + steps * self.step_seconds
            return latency + sent / self.bytes_per_second
        step = self.step_seconds * (SMALL_STEP if payload <= SMALL_BYTES else 1.0)
        ring = sent / self.bytes_per_second + rounds * payload * self.local_seconds_per_byte
        ring += rounds * (members - 1) * step
        if op == "all_reduce" and self.switch_adds:
            ring = min(ring, payload / (SWITCH_SHARE * self.bytes_per_second) + 2 * step)
        return self.latency_seconds + ring


@dataclass(frozen=True)
class Execution:
    """How the training software runs a block, beside its layout.

    Attributes:
        sequence_parallel: tensor ranks hold norms and dropouts split by tokens.
        context: ranks that divide a sequence.
        width: bytes of an element in matrix products.
        row_scales: products in fp8 scale each row of an operand by itself.
        compiled: element-wise kernels are fused by a compiler.
        async_tensor: tensor collectives are cut up and run under the products.
        copies_tokens: what tensor ranks gather of tokens is put in order after it has come, and
            before it is scattered, by a copy.
        stops_early: full recomputation ends where it has all that the backward reads: before the
            last product (PyTorch, torch.utils.checkpoint, set_checkpoint_early_stop).
        newest_attention: fused attention is written for the newest devices.
        tensor_link: None means the link inside a node.
        chunks: parts in which tensor collectives run beside products.
    """

    sequence_parallel: bool = False
    context: int = 1
    width: int = 2
    row_scales: bool = False
    compiled: bool = False
    async_tensor: bool = False
    copies_tokens: bool = False
    stops_early: bool = False
    newest_attention: bool = False
    tensor_link: TensorLink | None = None
    chunks: int = 1

    @property
    def gathers_scaled(self) -> bool:
        """Whether tensor ranks gather what is scaled to fp8 already: one scale for all of it
        (torchao float8_tensor_parallel.py casts before it gathers, and gradients likewise)."""
        return self.width < HALF_BYTES and not self.row_scales


PLAIN = Execution()


def inner_link(
    device: DeviceKind, link: LinkCalibration, style: CollectiveStyle = "ring"
) -> TensorLink:
    """The link between the devices of a node.

    Raises:
        ConfigError: the catalogue has no figure for it.
    """
    if device.link_gbytes_s is None:
        raise missing(device, "link_gbytes_s")
    rate = link.bytes_per_second(device.link_gbytes_s * 1e9)
    local = 0.0
    if link.passes:
        if device.memory_gbytes_s is None:
            raise missing(device, "memory_gbytes_s")
        local = link.passes / (device.memory_gbytes_s * 1e9)
    adds = device.in_switch_reduction
    direct = style == "direct"
    return TensorLink(rate, link.latency_seconds, link.step_seconds, local, adds, direct)


def tensor_link(device: DeviceKind, calibration: Calibration, how: Execution) -> TensorLink:
    """What the tensor collectives of a block run over.

    Raises:
        ConfigError: the catalogue has no figure for it.
    """
    return how.tensor_link or inner_link(
        device, calibration.link("intra-node"), calibration.collectives
    )


def both_ways(each: Sequence[tuple[Collective, float]]) -> BlockTime:
    """The sums of a block's collectives by direction."""
    total = {"forward": 0.0, "backward": 0.0}
    for part, seconds in each:
        total[part.direction] += seconds
    return BlockTime(total["forward"], total["backward"])


def tensor_collectives(
    block: Block,
    device: DeviceKind,
    calibration: Calibration,
    members: tuple[int, int],
    how: Execution,
) -> list[tuple[Collective, float]]:
    """Each tensor-parallel collective of the block in order, with the seconds that it shows.

    Args:
        members: samples of a micro-batch, and tensor ranks.
    """
    micro, tp = members
    if tp == 1:
        return []
    link = tensor_link(device, calibration, how)
    arrival = calibration.compute.arrival_seconds * (tp - 1)
    exposed = calibration.compute.async_exposed if how.async_tensor else 1.0
    memory = rates_of(device, calibration.compute).memory if how.copies_tokens else math.inf
    found = []
    for part in block.program(how.sequence_parallel):
        if isinstance(part, Collective) and part.axis == "tensor":
            rounds = 2 if part.op == "all_reduce" else 1
            sent = part.sent_bytes(tp, tp, how.context) * micro
            payload = sent * tp / (rounds * (tp - 1))
            if part.op == "all_gather" and how.gathers_scaled:
                payload *= how.width / HALF_BYTES
            seconds = link.seconds(part.op, payload, tp) + rounds / 2 * arrival
            if part.tokens and rounds == 1:
                seconds += 2 * payload / memory
            found.append((part, seconds * exposed))
    return found


def repeated_seconds(each: Sequence[tuple[Collective, float]]) -> float:
    """Of a block's collectives, what a recomputation that stops early adds.

    What lies behind the last product is not repeated, and what is gathered again serves the
    gradients of weights, which then need no gather of their own.
    """
    forward = [(part, seconds) for part, seconds in each if part.direction == "forward"]
    return sum(seconds for part, seconds in forward[:-1] if part.op != "all_gather")
