"""How training software runs a block, and the seconds of its tensor-parallel collectives."""

from __future__ import annotations

from dataclasses import dataclass

from holmes.cost.calibration import BlockTime, Calibration, LinkCalibration
from holmes.cost.kernels import missing
from holmes.hardware.catalogue import DeviceKind
from holmes.workload.workload import Block, Collective

IN_SWITCH_OVER_RING = 480.0 / 367.2
"""Bus bandwidth of a large all-reduce on 8 H200 with the switch adding over that of a ring
(stas00/ml-engineering, network/README.md)."""


@dataclass(frozen=True)
class TensorLink:
    """What the tensor group of a block talks over: bytes per second, and latencies.

    ``in_switch`` multiplies the rate of an all-reduce where the switch adds.
    """

    bytes_per_second: float
    latency_seconds: float
    step_seconds: float
    in_switch: float = 1.0


@dataclass(frozen=True)
class Execution:
    """How the training software runs a block, beside its layout.

    Attributes:
        sequence_parallel: tensor ranks hold norms and dropouts split by tokens.
        context: ranks that divide a sequence.
        width: bytes of an element in matrix products.
        compiled: element-wise kernels are fused by a compiler.
        async_tensor: tensor collectives are cut up and run under the products.
        tensor_link: None means the link inside a node.
    """

    sequence_parallel: bool = False
    context: int = 1
    width: int = 2
    compiled: bool = False
    async_tensor: bool = False
    tensor_link: TensorLink | None = None


PLAIN = Execution()


def inner_link(device: DeviceKind, link: LinkCalibration) -> TensorLink:
    """The link between the devices of a node.

    Raises:
        ConfigError: the catalogue has no figure for it.
    """
    if device.link_gbytes_s is None:
        raise missing(device, "link_gbytes_s")
    rate = link.bytes_per_second(device.link_gbytes_s * 1e9)
    faster = IN_SWITCH_OVER_RING if device.in_switch_reduction else 1.0
    return TensorLink(rate, link.latency_seconds, link.step_seconds, faster)


def collectives_seconds(
    block: Block,
    device: DeviceKind,
    calibration: Calibration,
    micro: int,
    tp: int,
    how: Execution,
) -> BlockTime:
    """Tensor-parallel collectives of the block: rings."""
    if tp == 1:
        return BlockTime(0.0, 0.0)
    link = how.tensor_link or inner_link(device, calibration.link("intra-node"))
    total = {"forward": 0.0, "backward": 0.0}
    for part in block.program(how.sequence_parallel):
        if isinstance(part, Collective) and part.axis == "tensor":
            rounds = 2 if part.op == "all_reduce" else 1
            faster = link.in_switch if part.op == "all_reduce" else 1.0
            moved = part.sent_bytes(tp, tp, how.context) * micro
            latency = link.latency_seconds + rounds * (tp - 1) * link.step_seconds
            total[part.direction] += moved / (link.bytes_per_second * faster) + latency
    exposed = calibration.compute.async_exposed if how.async_tensor else 1.0
    return BlockTime(total["forward"] * exposed, total["backward"] * exposed)
