"""What tensor collectives cut into chunks hide under the products beside them.

Two ways to be busy, the link and the device, take turns over c equal chunks: one that takes
a after one that takes b lasts a + b + (c - 1) max(a, b), all of one chunk. Before a product
split by columns tokens are gathered, and in the backward the gradients of its input are
summed, the last of them under the gradients of its weights (Narayanan et al. 2021 have the
whole sum there); behind one split by rows the same happens the other way round
(:mod:`holmes.runtime.tensor.overlapped`). Every chunk pays the link's latency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from holmes.cost.calibration import BlockTime, Calibration
from holmes.cost.execution import Execution, TensorLink, tensor_link
from holmes.hardware.catalogue import DeviceKind
from holmes.workload.workload import Block, Collective, Segment


@dataclass(frozen=True)
class _Pair:
    """A product and the collective beside it: seconds of the product one way, bytes of the
    whole activation."""

    product: float
    payload: float
    enters: bool


def hidden_seconds(
    block: Block,
    device: DeviceKind,
    calibration: Calibration,
    members: tuple[int, int],
    how: Execution,
    seconds: Callable[[Segment], float],
) -> BlockTime:
    """What ``how.chunks`` save of a block over collectives and products in turn.

    Negative where latencies cost more than is hidden.

    Args:
        members: samples of a micro-batch, and tensor ranks.
        seconds: of a segment's forward on a rank.
    """
    micro, tp = members
    if tp == 1 or how.chunks == 1:
        return BlockTime(0.0, 0.0)
    link = tensor_link(device, calibration, how)
    total = BlockTime(0.0, 0.0)
    for pair in _pairs(block, micro / how.context, seconds):
        total += _saved(pair, link, tp, how.chunks)
    return total


def _pairs(block: Block, samples: float, seconds: Callable[[Segment], float]) -> Iterator[_Pair]:
    """Every product with weights that has a collective of tokens before it or behind it."""
    parts = [p for p in block.inner if isinstance(p, Segment) or p.axis == "tensor"]
    for before, after in pairwise(parts):
        product, beside = (after, before) if isinstance(before, Collective) else (before, after)
        if not (isinstance(product, Segment) and isinstance(beside, Collective)):
            continue
        enters = beside is before
        if product.weight_bytes and beside.tokens and enters == (beside.direction == "backward"):
            yield _Pair(seconds(product), beside.bytes_ * samples, enters)


def _saved(pair: _Pair, link: TensorLink, tp: int, chunks: int) -> BlockTime:
    whole = link.seconds("all_gather", pair.payload, tp)
    chunk = link.seconds("all_gather", pair.payload / chunks, tp)
    product = pair.product / chunks
    turns = chunk + product + (chunks - 1) * max(chunk, product)
    one_way = whole + pair.product - turns
    if not pair.enters:
        return BlockTime(one_way, one_way)
    back = whole + 2 * pair.product - max(turns, 2 * pair.product)
    return BlockTime(one_way, back)
