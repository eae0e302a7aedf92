"""Attention over the ranks of a context group against plain attention."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product

import pytest
import torch

from holmes.errors import ConfigError, HolmesError
from holmes.launch.pool import Pool
from holmes.plan.chunks import chunk_width, deal
from holmes.runtime.context.attention import context_attention
from holmes.runtime.context.axis import ContextAxis
from holmes.runtime.context.blocks import Rule
from holmes.runtime.context.reference import full_attention
from holmes.runtime.context.ulysses import exchange_attention
from holmes.workload.workload import exchange_obstacle
from tests.runtime.context_cases import Sample, attend, expected, whole

DEADLINE = 60
ALGORITHMS = ("rsa", "ring", "ulysses")
BOUNDS = {"float64": 1e-12, "float32": 1e-6}
"""Of the largest value of a tensor."""


class Alone:
    """The communicator of a group of one."""

    index, size, ranks = 0, 1, (0,)


def samples(ranks: int) -> list[Sample]:
    """Every algorithm with every mask, unequal chunks, padding, and fewer heads of keys."""
    found = []
    heads = {2: 4, 3: 6, 4: 8}[ranks]
    for algorithm, causal, masked in product(ALGORITHMS, (True, False), (False, True)):
        found.append(Sample(algorithm, 24, causal, masked, heads, heads))
    for algorithm in ALGORITHMS:
        found.append(Sample(algorithm, 13, True, True, heads, ranks, padded=True))
        found.append(Sample(algorithm, 13, True, False, heads, 1))
        found.append(Sample(algorithm, ranks, True, False, heads, heads))
        found.append(Sample(algorithm, 24, True, False, heads, heads, window=5))
        found.append(Sample(algorithm, 24, True, False, heads, heads, dtype="float32"))
        found.append(Sample(algorithm, 13, True, True, heads, ranks, padded=True, apart=True))
        found.append(Sample(algorithm, 24, True, False, heads, 1, window=5, apart=True))
    return found


@pytest.mark.parallel
@pytest.mark.parametrize("size", [2, 3, 4])
def test_output_and_gradients_equal_full_attention(ranks: Pool, size: int) -> None:
    wanted = samples(size)
    results = ranks.run(
        "tests.runtime.context_cases:compare",
        {"samples": [asdict(sample) for sample in wanted], "ranks": size},
        deadline_seconds=DEADLINE,
        ranks=size,
    )
    for sample in wanted:
        for result in results:
            assert result[sample.name]["worst"] <= BOUNDS[sample.dtype], sample.name


@pytest.mark.parallel
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bytes_are_the_closed_forms(ranks: Pool, algorithm: str) -> None:
    """B Z (L/N) A elements are one tensor of a rank: forward 2 (N-1) of it, backward twice
    that; with exchanges, the (N-1)/N of four such tensors each way."""
    size, heads, keys = 3, 6, 3
    sample = Sample(algorithm, 600, True, False, heads, keys, dtype="float32")
    results = ranks.run(
        "tests.runtime.context_cases:compare",
        {"samples": [asdict(sample)], "ranks": size},
        deadline_seconds=DEADLINE,
        ranks=size,
    )
    tensor = 2 * 4 * (600 // size) * 4  # samples, features, tokens, bytes; per head
    forward, backward = 2 * (size - 1) * keys * tensor, 4 * (size - 1) * keys * tensor
    if algorithm == "ulysses":
        forward = backward = (size - 1) * 2 * (heads + keys) * tensor // size
    for result in results:
        assert result[sample.name]["forward"] == forward
        assert result[sample.name]["backward"] == backward


@pytest.mark.parallel
def test_numerical_gradients_of_ring_attention(ranks: Pool) -> None:
    results = ranks.run(
        "tests.runtime.context_cases:check_gradients", {}, deadline_seconds=DEADLINE, ranks=3
    )
    assert all(result["good"] for result in results)


@pytest.mark.parallel
@pytest.mark.parametrize("size", [2, 3])
def test_ring_attention_is_that_of_torch(ranks: Pool, size: int) -> None:
    """A third opinion; torch keeps its sums in fp32."""
    results = ranks.run(
        "tests.runtime.context_cases:beside_torch",
        {"ranks": size},
        deadline_seconds=DEADLINE,
        ranks=size,
    )
    assert all(result["worst"] <= BOUNDS["float32"] for result in results)


@pytest.mark.parallel
def test_a_late_rank_is_waited_for(ranks: Pool) -> None:
    results = ranks.run(
        "tests.runtime.context_cases:late", {"seconds": 2.0}, deadline_seconds=DEADLINE, ranks=2
    )
    assert all(worst <= 1e-12 for result in results for worst in result.values())


@pytest.mark.parallel
@pytest.mark.parametrize("algorithm", ["ring", "ulysses"])
def test_a_rank_that_raises_is_named(ranks: Pool, algorithm: str) -> None:
    said: list[str] = []
    with pytest.raises(HolmesError) as error:
        ranks.run(
            "tests.runtime.context_cases:fail_in_attention",
            {"algorithm": algorithm},
            deadline_seconds=30,
            ranks=3,
            on_progress=lambda rank, value: said.append(value["text"]),
        )
    assert "a number went wrong" in error.value.text()
    assert "rank 1" in error.value.text()
    assert all("no answer from rank" in text and "1" in text for text in said)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("masked", [False, True])
def test_one_rank_is_plain_attention(algorithm: str, masked: bool) -> None:
    axis = ContextAxis(Alone())  # type: ignore[arg-type]
    found = attend(Sample(algorithm, 9, True, masked), axis)
    assert found["worst"] <= 1e-12
    assert found["forward"] == found["backward"] == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_that_read_nothing_are_zero(algorithm: str) -> None:
    given = whole(Sample(masked=True))
    axis, chunks = ContextAxis(Alone()), deal(12, 1, algorithm)  # type: ignore[arg-type]
    leaves = [t.clone().requires_grad_() for t in (given.q, given.k, given.v)]
    out = context_attention(*leaves, axis, chunks, algorithm, rule=Rule(True, given.mask))  # type: ignore[arg-type]
    order = chunks.positions(0).index
    lost = [order(position) for position in range(4)]
    assert not out[1][:, lost].any()
    gradients = torch.autograd.grad(out, leaves, given.d_out)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0][1][:, lost].any()


def test_the_reference_is_what_torch_computes() -> None:
    given = whole(Sample(key_heads=2))
    out, *_ = expected(given, Sample())
    theirs = torch.nn.functional.scaled_dot_product_attention(
        given.q, given.k, given.v, is_causal=True, enable_gqa=True
    )
    assert torch.allclose(out, theirs, rtol=0, atol=1e-13)
    everything = full_attention(given.q, given.k, given.v, causal=False)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        given.q, given.k, given.v, enable_gqa=True
    )
    assert torch.allclose(everything, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("length", "size"), [(24, 3), (25, 3), (7, 2), (6, 4), (5, 4), (4, 4)])
def test_chunks_hold_every_token_once(algorithm: str, length: int, size: int) -> None:
    chunks = deal(length, size, algorithm, multiple=2)  # type: ignore[arg-type]
    held = [p for r in range(size) for p in chunks.positions(r)[: chunks.own[r]]]
    assert sorted(held) == list(range(length))
    assert min(chunks.own) >= 1
    assert set(chunks.held) == {chunk_width(length, size, 2)}
    assert chunks.held[0] % 2 == 0
    assert max(chunks.own) <= chunks.held[0] <= -(-length // size) + 1


def test_folded_chunks_have_equal_causal_work() -> None:
    """Rank r reads (r + 1) + (2N - r) pieces of keys: 2N + 1 on all of them."""
    chunks = deal(48, 4, "ring")
    work = [sum(position + 1 for position in chunks.positions(rank)) for rank in range(4)]
    straight = deal(48, 4, "rsa")
    uneven = [sum(position + 1 for position in straight.positions(rank)) for rank in range(4)]
    assert max(work) == min(work)
    assert max(uneven) > 5 * min(uneven)


@pytest.mark.parametrize(
    ("heads", "keys", "size", "words"),
    [
        (6, 6, 3, None),
        (8, 2, 4, None),
        (8, 4, 2, None),
        (6, 6, 4, "6 attention heads do not divide over 4"),
        (12, 3, 2, "3 heads of keys and values do not divide over 2"),
    ],
)
def test_heads_that_cannot_be_exchanged(
    heads: int, keys: int, size: int, words: str | None
) -> None:
    assert exchange_obstacle(heads, keys, size) == (words and f"{words} context ranks")
    if words is not None:
        axis = Alone()
        axis.size = size  # type: ignore[misc]
        shapes = ((1, heads, 4, 2), (1, keys, 4, 2), (1, keys, 4, 2))
        q, k, v = (torch.zeros(shape) for shape in shapes)
        with pytest.raises(ConfigError, match=words):
            exchange_attention(q, k, v, axis, deal(8, size, "ulysses"), full_attention)  # type: ignore[arg-type]
