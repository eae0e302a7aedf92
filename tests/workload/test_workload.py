"""Products, collectives and blocks as values: splits, backward shapes, sequence parallelism."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from holmes.workload import (
    AttentionCore,
    Block,
    Collective,
    MatrixProduct,
    Segment,
    with_sequence_parallelism,
)

COLUMN = MatrixProduct(m=12, n=8, k=6, tensor="n")
ROW = MatrixProduct(m=12, n=6, k=8, tensor="k")
EXPERTS = MatrixProduct(m=12, n=8, k=6, count=4, tensor="n", experts=True)
SCORES, MIXED = AttentionCore(4, 2, queries=12, keys=12, head_size=6).products()
ALL = [COLUMN, ROW, SCORES, MIXED, EXPERTS]


@pytest.mark.parametrize("product", ALL)
def test_backward_shapes_are_those_of_autograd(product: MatrixProduct) -> None:
    a = torch.zeros(product.count, product.m, product.k)
    b = torch.zeros(product.count, product.k, product.n)
    upstream = a @ b
    first, second = product.backward()
    for found, left, right, result in (
        (first, upstream, b.mT, a),
        (second, a.mT, upstream, b),
    ):
        assert (found.m, found.k) == left.shape[1:]
        assert (found.k, found.n) == right.shape[1:]
        assert (found.m, found.n) == result.shape[1:]
        assert found.flops == product.flops


@pytest.mark.parametrize("product", ALL)
@pytest.mark.parametrize("micro", [1, 3])
def test_ranks_together_do_the_work_of_the_micro_batch(product: MatrixProduct, micro: int) -> None:
    for one in (product, *product.backward()):
        for tp, cp in itertools.product((1, 2), (1, 2, 3)):
            part = one.on_rank(micro=micro, tp=tp, cp=cp)
            assert part.flops * tp * cp == one.flops * micro
        # The tokens of both ranks' micro-batches meet the experts of each.
        assert one.on_rank(ep=2).flops == one.flops


def test_column_and_row_splits_divide_the_same_weight() -> None:
    assert COLUMN.on_rank(tp=2) == replace(COLUMN, n=4)
    assert ROW.on_rank(tp=2) == replace(ROW, k=4)
    gradient_of_input, gradient_of_weight = COLUMN.on_rank(tp=2).backward()
    assert (gradient_of_input.k, gradient_of_weight.n) == (4, 4)
    assert COLUMN.on_rank(tp=3).n == 3  # rounded up
    assert COLUMN.on_rank(micro=5).m == 60
    assert SCORES.on_rank(micro=5).count == 20
    assert COLUMN.backward()[1].on_rank(micro=5).k == 60
    assert COLUMN.elements() == 12 * 6 + 6 * 8 + 12 * 8


def test_segment_kinds_and_shares() -> None:
    norm = Segment("norm", 0.0, 8.0, split=())
    wide = Segment("up", COLUMN.flops, 8.0, products=(COLUMN,))
    core = Segment("attention", 1.0, 8.0, attention=AttentionCore(4, 2, 12, 12, 6))
    assert [s.kind for s in (norm, wide, core)] == ["elementwise", "product", "attention"]
    assert norm.share(tp=4, cp=2) == 1 / 2
    assert norm.share(tp=4, cp=2, sequence_parallel=True) == 1 / 8
    assert wide.share(tp=4, cp=2) == 1 / 8


def test_sequence_parallelism_gathers_and_scatters_what_was_summed() -> None:
    entry = Collective("all_reduce", "tensor", 8.0, "backward")
    leave = Collective("all_reduce", "tensor", 8.0, "forward")
    sums = Collective("all_reduce", "tensor", 1.0, "forward", tokens=False)
    ring = Collective("ring", "context", 8.0, "forward", split=("tensor",))
    found = with_sequence_parallelism((entry, leave, sums, ring))
    assert [(c.op, c.direction) for c in found if isinstance(c, Collective)] == [
        ("all_gather", "forward"),
        ("reduce_scatter", "backward"),
        ("all_gather", "backward"),
        ("reduce_scatter", "forward"),
        ("all_gather", "backward"),
        ("all_reduce", "forward"),
        ("ring", "forward"),
    ]

    def sent(parts: tuple[object, ...]) -> float:
        return sum(c.sent_bytes(4) for c in parts if isinstance(c, Collective) and c.tokens)

    # As much as without, but for the input gathered a second time.
    assert sent(found) == sent((entry, leave, ring)) + entry.sent_bytes(4) / 2


def test_bytes_sent_by_a_rank() -> None:
    ring = Collective("ring", "context", 24.0, "forward", split=("tensor",))
    assert ring.sent_bytes(4, tp=2) == 9.0  # three times a quarter of the half
    total = Collective("all_reduce", "tensor", 24.0, "forward")
    assert total.sent_bytes(4) == 36.0
    assert total.sent_bytes(4, cp=2) == 18.0


def block() -> Block:
    core = Segment("attention", 100.0, 8.0, selective=1.0)
    return Block(
        name="layer",
        kind="transformer",
        parameters=110,
        tensors=3,
        inner=(core, Segment("up", 300.0, 8.0)),
        activation_bytes={"none": 50.0, "selective": 34.0, "full": 2.0},
        output_bytes=2.0,
        whole_activation_bytes={"none": 10.0, "selective": 10.0, "full": 2.0},
        whole_parameters=10,
        expert_parameters=80,
    )


def test_a_block_on_a_rank() -> None:
    one = block()
    assert one.activation_bytes_on_rank("none", tp=4) == 10 + 40 / 4
    assert one.activation_bytes_on_rank("none", tp=4, sequence_parallel=True) == 50 / 4
    assert one.activation_bytes_on_rank("full", tp=4, cp=2) == 2 / 2
    assert one.activation_bytes_on_rank("full", tp=2, sequence_parallel=True) == 1
    assert one.parameters_on_rank(tp=2, ep=4) == 10 + 20 / 2 + 80 / 8


def test_recomputed_flops_by_mode() -> None:
    one = block()
    assert one.flops_recomputed("none") == 0
    assert one.flops_recomputed("selective") == 100
    assert one.flops_recomputed("full") == one.flops_forward == 400
    keeps_all = replace(one, activation_bytes={"none": 2.0, "full": 2.0})
    assert keeps_all.flops_recomputed("full") == 0
