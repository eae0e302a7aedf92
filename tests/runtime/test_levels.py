"""What a level of sharding promises on eight real ranks: same bits, bytes, memory, errors.

One run of a level is looked at from all sides. Its tensors divide over nothing: a prime
vocabulary and length, norms and biases of fewer elements than there are ranks, and one
parameter in the middle that is not trained.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import pytest
import torch

from holmes.cost.resident import resident_bytes
from holmes.launch.pool import Pool
from holmes.models.gpt.model import build_blocks, named_parameters
from holmes.models.gpt.sharding import zero_gradient_parameters
from holmes.plan.plan import Plan
from holmes.plan.program import program_of
from holmes.plan.sharding import BITS
from holmes.planner.groups import with_bytes
from holmes.runtime.sharding.quantize import packed_bytes
from tests.runtime.plans import Spec, plan_of
from tests.runtime.reference import train_plainly
from tests.runtime.trained import DEADLINE, Tensors, kind, trained

pytestmark = pytest.mark.parallel
RANKS = 8
FROZEN = "blocks.2.mlp.up.weight"
BASE = Spec(
    dp=RANKS,
    micro=1,
    microbatches=2,
    hidden=6,
    vocabulary=43,
    sequence=7,
    frozen=(FROZEN,),
    integer_gradients=True,
)
LEVELS = [
    replace(BASE, sharding="none", overlap=True),
    replace(BASE, sharding="optimizer"),
    replace(BASE, sharding="gradients", overlap=True),
    replace(BASE, sharding="parameters", overlap=True),
    replace(BASE, sharding="hybrid", shard=(2,), overlap=True),
    replace(BASE, sharding="hybrid", shard=(4,)),
    replace(BASE, sharding="three-level", shard=(2, 4), overlap=True),
    replace(BASE, sharding="three-level", shard=(1, 2)),
]
QUANTIZED = [
    replace(BASE, sharding="parameters", quantize="int8", overlap=True),
    replace(BASE, sharding="hybrid", shard=(4,), quantize="int4"),
    replace(BASE, sharding="three-level", shard=(2, 4), quantize="int8"),
    replace(BASE, sharding="three-level", shard=(2, 4), quantize="int4", overlap=True),
]
Run = tuple[list[Any], Tensors]


def short_name(spec: Spec) -> str:
    return f"{spec.sharding}-{spec.shard}-{spec.quantize}"


@pytest.fixture(scope="module")
def runs(seats: Pool, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A level's run, made once: what each rank reported, and the tensors put together."""

    @cache
    def run(spec: Spec) -> Run:
        folder = tmp_path_factory.mktemp("level")
        return trained(seats, spec, folder, case="tests.runtime.level_cases:train_level")

    return run


def test_the_tensors_divide_over_nothing() -> None:
    plan = plan_of(BASE)
    assert all(bucket.elements % RANKS for stage in plan.stages for bucket in stage.buckets)
    assert BASE.hidden < RANKS


@pytest.mark.parametrize("spec", LEVELS, ids=short_name)
def test_integer_gradients_train_to_the_same_bits(runs: Any, spec: Spec) -> None:
    expected, losses, norms = train_plainly(spec)
    results, found = runs(spec)
    parameters = kind(found, "parameters/")
    assert parameters.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(parameters[name].float(), tensor), name
    for result in results:
        assert result["norms"] == norms
        assert result["losses"] == pytest.approx(losses, rel=1e-12)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("spec", LEVELS, ids=short_name)
def test_what_is_frozen_stays_and_the_rest_moves(runs: Any, spec: Spec) -> None:
    blocks = build_blocks(spec.config, 0, spec.config.blocks)
    _, found = runs(spec)
    still = {
        name
        for name, start in named_parameters(blocks, 0)
        if torch.equal(found[f"parameters/{name}"].float(), start.detach())
    }
    assert still - zero_gradient_parameters(spec.config) == {FROZEN}
    assert not found[f"exp_avg/{FROZEN}"].any()


@pytest.mark.parametrize("spec", [*LEVELS, *QUANTIZED], ids=short_name)
def test_a_rank_keeps_exactly_the_predicted_bytes(runs: Any, spec: Spec) -> None:
    results, _ = runs(spec)
    plan = plan_of(spec)
    for rank, result in enumerate(results):
        assert result["resident"] == resident_bytes(plan, rank)


@pytest.mark.parametrize("spec", [*LEVELS, *QUANTIZED], ids=short_name)
def test_bytes_of_every_group_are_their_closed_form(runs: Any, spec: Spec) -> None:
    results, _ = runs(spec)
    plan = plan_of(spec)
    for rank, result in enumerate(results):
        received: Counter[tuple[int, ...]] = Counter()
        for group in plan.groups:
            if group.axis == "data" and rank in group.ranks:
                received[group.ranks] += result["received"][group.name]
        assert received == closed_form(plan, rank), rank


def closed_form(plan: Plan, rank: int) -> dict[tuple[int, ...], int]:
    """Bytes that a rank gets (and sends) in a step, by members of the group; docs/sharding.md."""
    shards = plan.stages[0].layout.shards(plan.sharding)
    weight_bits, gradient_bits = BITS[plan.quantize]
    microbatches = plan.schedule.microbatches
    lengths = [-(-b.elements // RANKS) * RANKS for b in plan.stages[0].buckets]
    found: Counter[tuple[int, ...]] = Counter()

    def add(members: tuple[int, ...], length: int, times: int, bits: int | None = None) -> None:
        """An exchange of ``length`` elements, of which each member has a part."""
        part = length // len(members)
        size = 4 * part if bits is None else packed_bytes(part, bits)
        if len(members) > 1:
            found[members] += times * (len(members) - 1) * size

    everybody, inner = tuple(range(RANKS)), shards.inner_group(rank)
    middle, far = shards.middle_group(rank), shards.far_group(rank)
    w, g = shards.weights, shards.gradients
    for number, length in enumerate(lengths):
        if g == 1:
            add(everybody, length, 2)
            continue
        turns = microbatches * (number == len(lengths) - 1) + (microbatches - 1) * (number == 0)
        add(inner, length, 2 * microbatches - turns, weight_bits)
        add(middle, length, microbatches, gradient_bits)
        add(far, length // g, 2)  # sums, and what is updated; or all that all of them sum
        add(shards.side_group(rank), length // w, 1)
    return found


def test_planned_bytes_are_near_the_packed_ones_where_parts_are_long() -> None:
    for spec in (replace(one, hidden=64, vocabulary=409) for one in (*LEVELS, *QUANTIZED)):
        plan = plan_of(spec)
        planned: Counter[tuple[int, ...]] = Counter()
        for group in with_bytes(plan.groups, program_of(plan), plan):
            if group.axis == "data":
                planned[group.ranks] += group.bytes_per_step
        exact = closed_form(plan, 0)
        for members, bytes_ in exact.items():
            assert planned[members] == pytest.approx(bytes_ * len(members), rel=0.05), members


def test_quantised_training_learns_within_the_bound(seats: Pool) -> None:
    spec = Spec(
        dp=RANKS,
        microbatches=2,
        sharding="three-level",
        shard=(2, 4),
        quantize="int4",
        precision="fp64",
        overlap=True,
        steps=12,
    )
    results = seats.run(
        "tests.runtime.level_cases:train_bounded",
        {"spec": asdict(spec)},
        deadline_seconds=DEADLINE,
        ranks=RANKS,
    )
    _, plain, _ = train_plainly(spec)
    for result in results:
        for what in ("weights", "gradients"):
            assert 0.5 < result[what] <= 1 + 1e-5, what
        assert result["losses"] == results[0]["losses"]
    losses = results[0]["losses"]
    assert plain[0] - losses[-1] > 0.8 * (plain[0] - plain[-1]) > 0
