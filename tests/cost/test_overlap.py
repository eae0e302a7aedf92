"""Collectives in chunks beside products: the closed form against a walk over the chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holmes.cost.calibration import DEFAULT
from holmes.cost.compute import block_seconds
from holmes.cost.execution import PLAIN, Execution, TensorLink
from holmes.cost.overlap import hidden_seconds
from holmes.hardware.catalogue import device_kind
from holmes.models.gpt.config import PRESETS
from holmes.models.gpt.describe import workload
from holmes.workload import Block, Collective, MatrixProduct, Segment

A100 = device_kind("a100-80g-sxm")
LINK = TensorLink(1e9, 1e-5, 0.0, direct=True)
TP, BYTES, PRODUCT = 4, 4e6, 2e-3


def block(entering: bool) -> Block:
    product = Segment(
        "product", 1.0, 1.0, products=(MatrixProduct(1, 1, 1, tensor="n"),), weight_bytes=1.0
    )
    beside = Collective("all_reduce", "tensor", BYTES, "backward" if entering else "forward")
    inner = (beside, product) if entering else (product, beside)
    return Block("b", "transformer", 1, 1, inner, {"none": 1.0}, 1.0)


def walked(
    chunks: int, seconds: float, *, before: bool, behind: float = 0.0, latency: float = 1e-5
) -> float:
    """When both the link and the device are done, one chunk after the other.

    Args:
        before: a chunk is gathered before it is computed; else it is summed afterwards.
        behind: what the device does once it has computed all chunks.
    """
    one = latency + BYTES * (TP - 1) / TP / chunks / 1e9
    link = device = 0.0
    for _ in range(chunks):
        if before:
            link += one
            device = max(device, link) + seconds / chunks
        else:
            device += seconds / chunks
            link = max(link, device) + one
    return max(link, device + behind)


@pytest.mark.parametrize("chunks", [2, 3, 16])
@pytest.mark.parametrize("seconds", [1e-4, PRODUCT, 2e-2])
@pytest.mark.parametrize("entering", [True, False])
def test_what_is_hidden_is_what_a_walk_saves(chunks: int, seconds: float, entering: bool) -> None:
    how = Execution(tensor_link=LINK, chunks=chunks)
    found = hidden_seconds(block(entering), A100, DEFAULT, (1, TP), how, lambda _: seconds)
    behind = seconds if entering else 0.0
    turns = walked(1, seconds, before=True)
    assert found.forward == pytest.approx(turns - walked(chunks, seconds, before=entering))
    backward = walked(chunks, seconds, before=not entering, behind=behind)
    assert found.backward == pytest.approx(turns + behind - backward)


def test_one_chunk_or_one_rank_hides_nothing() -> None:
    for chunks, tp in ((1, 4), (4, 1)):
        how = Execution(tensor_link=LINK, chunks=chunks)
        found = hidden_seconds(block(True), A100, DEFAULT, (1, tp), how, lambda _: PRODUCT)
        assert (found.forward, found.backward) == (0.0, 0.0)


def test_a_layer_is_faster_in_a_few_chunks_and_slower_in_very_many() -> None:
    layer = workload(PRESETS["gpt-7.5b"], "bf16").blocks[1]
    times = [
        block_seconds(layer, A100, DEFAULT, 4, 8, how=replace(PLAIN, chunks=chunks))
        for chunks in (1, 2, 500)
    ]
    whole, few, many = (time.forward + time.backward for time in times)
    assert few < whole < many
    assert times[1].forward < times[0].forward and times[1].backward < times[0].backward
