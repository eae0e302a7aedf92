"""Tensor ranks against plain training, on real ranks."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from holmes.errors import ConfigError, HolmesError
from holmes.launch.pool import Pool
from holmes.plan.program import program_of
from holmes.planner.groups import with_bytes
from holmes.runtime.capabilities import check
from holmes.runtime.tensor.piece import even_piece, padded_piece
from holmes.runtime.tensor.tally import Tally
from holmes.runtime.tensor.tally import check as check_tally
from tests.runtime.plans import Spec, plan_of
from tests.runtime.reference import BETAS, plain_gradients
from tests.runtime.trained import (
    BOUNDS,
    DEADLINE,
    NO_CLIP,
    assert_trains_as_plain,
    kind,
    name_of,
    trained,
    worst,
)

pytestmark = pytest.mark.parallel


SPECS = [
    Spec(tp=2, precision="fp64"),
    Spec(tp=2, tied=True, precision="fp64"),
    Spec(tp=2, dp=2, precision="fp64", overlap=True, tied=True),
    Spec(tp=2, pp=2, precision="fp64", tied=True),
    Spec(tp=2, dp=2, sharding="none", precision="fp64"),
    Spec(tp=2, precision="fp64", vocabulary=41),
    Spec(tp=2, pp=2, precision="fp64", recompute="full", schedule="gpipe"),
    Spec(tp=2, pp=2, precision="fp64", recompute="selective"),
    Spec(tp=2, pp=2, precision="fp64", schedule="zero-bubble"),
    Spec(tp=2, pp=2, precision="fp64", virtual=2, schedule="interleaved"),
    Spec(tp=4, heads=4, key_heads=2, family="llama", precision="fp64"),
    Spec(tp=2, dp=2, heads=4, key_heads=1, family="llama", precision="fp64", overlap=True),
    Spec(tp=2, pp=2, heads=4, key_heads=1, family="llama", precision="fp64", tied=True),
]


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_training_equals_plain_training(ranks: Pool, spec: Spec, tmp_path: Path) -> None:
    assert_trains_as_plain(ranks, spec, tmp_path)


@pytest.mark.parametrize(
    "spec",
    [
        Spec(tp=2),
        Spec(tp=2, pp=2, overlap=True),
        Spec(tp=2, precision="fp64"),
        Spec(tp=4, heads=4, key_heads=2, family="llama"),
        Spec(tp=2, dp=2, heads=4, key_heads=1, family="llama"),
    ],
    ids=name_of,
)
def test_gradients_of_every_tensor(ranks: Pool, spec: Spec, tmp_path: Path) -> None:
    """The first moment after one step is the gradient times a constant.

    Parameters in fp32 say less: Adam divides a gradient by its own size, so rounding of a
    near-zero one moves a parameter as far as the plain fp32 run is from the fp64 one.
    """
    one = replace(spec, steps=1, clip=NO_CLIP)
    expected = plain_gradients(one)
    _, found = trained(ranks, one, tmp_path)
    gradients = {n: m / (1 - BETAS[0]) for n, m in kind(found, "exp_avg/").items()}
    assert worst(gradients, expected, one) <= BOUNDS[spec.precision]


@pytest.mark.parametrize(
    "spec",
    [
        Spec(tp=2, pp=2, tied=True),
        Spec(tp=2, dp=2, recompute="full"),
        Spec(tp=2, precision="bf16"),
        Spec(tp=4, heads=4, key_heads=2, family="llama"),
    ],
    ids=name_of,
)
def test_bytes_are_those_of_the_plan(ranks: Pool, spec: Spec) -> None:
    """Counted below the tensor axis, against the closed form that the planner publishes."""
    results = ranks.run(
        "tests.runtime.tensor_cases:count_tensor_bytes",
        {"spec": asdict(spec)},
        deadline_seconds=DEADLINE,
        ranks=spec.world,
    )
    plan = plan_of(spec)
    groups = [g for g in with_bytes(plan.groups, program_of(plan), plan) if g.axis == "tensor"]
    assert len(groups) == spec.pp * spec.dp
    for group in groups:
        sent = 0
        for rank in group.ranks:
            for op, (_, size) in results[rank].items():
                rounds = 2 if op == "all_reduce" else 1
                sent += rounds * size * (spec.tp - 1) // spec.tp
        assert sent == pytest.approx(group.bytes_per_step, rel=0.05)
    calls = [{op: count for op, (count, _) in result.items()} for result in results]
    assert all(calls[r] == calls[g.ranks[0]] for g in groups for r in g.ranks)


def test_one_micro_batch_by_hand(ranks: Pool) -> None:
    """Two layers: two gathers and two sums each way; table one sum, head one gather; a loss of
    three; the gradients of norms, positions and row biases once."""
    (first, _) = ranks.run(
        "tests.runtime.tensor_cases:count_tensor_bytes",
        {"spec": asdict(Spec(tp=2, layers=2, microbatches=3))},
        deadline_seconds=DEADLINE,
        ranks=2,
    )
    activation = 2 * 8 * 16 * 4
    assert first["reduce_scatter"] == [3 * (4 + 1 + 4 + 1), 3 * 10 * activation]
    assert first["all_gather"] == first["reduce_scatter"]
    shared = 4 * (2 * (2 * 2 * 16 + 2 * 16) + 2 * 16 + 8 * 16)
    assert first["all_reduce"] == [3 * 3 + 1, 3 * 3 * 2 * 8 * 4 + shared]


def test_virtual_devices_send_their_share_of_a_boundary(ranks: Pool) -> None:
    spec = Spec(tp=2, pp=2, overlap=True, steps=1)
    results = ranks.run(
        "tests.runtime.cases:virtual",
        {"spec": asdict(spec), "seconds": 0.001},
        deadline_seconds=DEADLINE,
        ranks=4,
    )
    program = program_of(plan_of(spec))
    for rank, result in enumerate(results):
        (step,) = result["spans"]
        assert sorted(span[0] for span in step) == [ins.id for ins in program.ranks[rank]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 1}, "1 attention heads do not divide over 2"),
        ({"family": "llama", "heads": 8, "key_heads": 2, "tp": 8}, None),
        ({"tp": 16, "heads": 16}, "a sequence of 8 tokens does not divide over 16"),
    ],
)
def test_what_cannot_be_split_is_refused(changes: dict[str, Any], words: str | None) -> None:
    plan = plan_of(replace(Spec(tp=2), **changes))
    if words is None:
        check(plan)
        return
    with pytest.raises(ConfigError, match=words) as error:
        check(plan)
    assert error.value.exit_code == 78


def test_pieces_cover_a_tensor_once_and_padding_stays_out() -> None:
    whole = torch.arange(7 * 3.0).view(7, 3)
    pieces = [padded_piece((7, 3), index, 4) for index in range(4)]
    assert [(p.start, p.stop) for p in pieces] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    taken = [piece.take(whole) for piece in pieces]
    assert all(part.shape == (2, 3) for part in taken)
    assert torch.equal(torch.cat(taken)[:7], whole)
    assert not taken[-1][1].any()
    columns = [even_piece((3, 8), 1, index, 4, 4).take(whole.new_ones(3, 8)) for index in range(4)]
    assert [tuple(part.shape) for part in columns] == [(3, 2)] * 4
    shared = [even_piece((8, 3), 0, index, 4, 2) for index in range(4)]
    assert [(p.part, p.first, p.shared) for p in shared] == [
        (0, True, True),
        (0, False, True),
        (1, True, True),
        (1, False, True),
    ]
    with pytest.raises(ValueError, match="7 in dim 0"):
        even_piece((7, 3), 0, 0, 2, 2)


@pytest.mark.parametrize(
    "counted",
    [
        Tally({"all_reduce": 5}, {"all_reduce": 600.0}),
        Tally({"all_reduce": 6}, {"all_reduce": 640.0}),
        Tally({"all_reduce": 6, "all_gather": 1}, {"all_reduce": 600.0}),
    ],
)
def test_a_step_that_sends_something_else_is_a_bug(counted: Tally) -> None:
    declared = Tally({"all_reduce": 2}, {"all_reduce": 200.0})
    check_tally(Tally({"all_reduce": 6}, {"all_reduce": 620.0}), declared, 3, "rank 0")
    with pytest.raises(HolmesError, match="not those that the workload declares"):
        check_tally(counted, declared, 3, "rank 0")
