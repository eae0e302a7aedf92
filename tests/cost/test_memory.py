"""Bytes per rank: exact sums, sharding, and published memory figures."""

from __future__ import annotations

import pytest

from holmes.cost.memory import (
    COMMUNICATOR_BYTES,
    MARGIN,
    RUNTIME_BYTES,
    memory_bytes,
    split_by_tokens,
    stage_memory,
    stage_parts,
)
from holmes.errors import ConfigError
from holmes.models.gpt.config import GptConfig
from holmes.models.gpt.describe import workload
from holmes.plan.layout import Layout
from holmes.workload import Workload
from tests.simulate.plans import Case, make

GPT_22B = workload(GptConfig(48, 6144, 64, 2048, 51200, tied=True), "mixed")


def states(work: Workload, blocks: tuple[int, int], layout: Layout, sharding: str) -> float:
    """Bytes of states, and of what their exchange needs."""
    parts = stage_parts(work, blocks, layout, sharding, 0, 0, "full")  # type: ignore[arg-type]
    return parts.states + parts.exchange


@pytest.mark.parametrize(
    ("sharding", "whole", "shared"),
    [("none", 18, 0), ("optimizer", 6, 12), ("gradients", 2, 16), ("parameters", 0, 16)],
)
def test_states_are_divided_as_the_sharding_says(sharding: str, whole: int, shared: int) -> None:
    layout = Layout(dp=8)
    blocks = GPT_22B.blocks[1:5]
    parameters = sum(block.parameters for block in blocks)
    largest = max(block.parameters for block in blocks)
    # Of sharded bf16 parameters only the fp32 master copy lasts; two blocks are whole at once.
    # Sharded gradients: one block's are computed, one's reduced, and as much arrives.
    whole_blocks = {"parameters": 2 + 2 + 2 + 4, "gradients": 3 * 4}.get(sharding, 2 + 4)
    expected = parameters * (whole + shared / 8) + largest * whole_blocks
    assert states(GPT_22B, (1, 5), layout, sharding) == pytest.approx(expected, rel=1e-6)


def test_published_states_and_activations_of_gpt_22b() -> None:
    """Korthikanti et al., figure 1: 45.6 GiB of states and 59.3 of activations on 8 tensor ranks.

    Their activation bar counts no logits.
    """
    parts = stage_parts(GPT_22B, (0, 50), Layout(tp=8), "none", 1, 4, "none")
    assert parts.states / 2**30 == pytest.approx(45.56, rel=0.05)
    assert parts.activations / 2**30 == pytest.approx(59.25, rel=0.05)


def test_tokens_divide_what_tensor_ranks_hold_whole() -> None:
    """Equation 4 of the same: 34 s b h / t bytes a layer with sequence parallelism."""
    layer = (2, 3)

    def kept(work: Workload) -> float:
        return stage_parts(work, layer, Layout(tp=8), "none", 1, 4, "selective").activations

    sbh = 2048 * 4 * 6144
    assert kept(GPT_22B) == pytest.approx((10 + 24 / 8) * sbh)
    assert kept(split_by_tokens(GPT_22B, 1, True)) == pytest.approx(34 / 8 * sbh)
    assert kept(split_by_tokens(GPT_22B, 4, False)) == pytest.approx((10 + 24 / 8) * sbh / 4)
    assert split_by_tokens(GPT_22B, 1, False) is GPT_22B


def test_communicators_of_an_accelerator_are_counted() -> None:
    def runtime(layout: Layout) -> float:
        return stage_parts(GPT_22B, (1, 9), layout, "none", 1, 1, "none").runtime

    assert runtime(Layout()) == RUNTIME_BYTES
    assert runtime(Layout(tp=2)) == RUNTIME_BYTES + 2 * COMMUNICATOR_BYTES
    assert runtime(Layout(tp=2, pp=2, dp=2)) == RUNTIME_BYTES + 4 * COMMUNICATOR_BYTES


def test_more_in_flight_and_larger_microbatches_need_more() -> None:
    layout = Layout(pp=2, dp=2)

    def need(flights: int, micro: int, recompute: str) -> int:
        return stage_memory(GPT_22B, (1, 9), layout, "optimizer", flights, micro, recompute)  # type: ignore[arg-type]

    assert need(1, 1, "none") < need(2, 1, "none") < need(2, 2, "none")
    assert need(4, 1, "full") < need(4, 1, "selective") < need(4, 1, "none")


def test_a_plan_charges_what_its_schedule_holds() -> None:
    case = Case((1.0,) * 3, (2.0,) * 3, 8, dp=2, parameters=1_000_000)
    plan, _ = make(case)
    bytes_ = memory_bytes(plan)
    assert sorted(bytes_) == list(range(6))
    assert bytes_[0] == bytes_[1] > bytes_[2] == bytes_[3] > bytes_[4]
    in_flight_difference = bytes_[0] - bytes_[2]
    assert in_flight_difference == pytest.approx(1e6 * (1 + MARGIN), abs=2)


def test_three_levels_divide_by_their_groups() -> None:
    blocks = (1, 5)
    parameters = sum(block.parameters for block in GPT_22B.blocks[slice(*blocks)])
    flat, nested = (
        states(GPT_22B, blocks, Layout(dp=16, shard=shard), "three-level")
        for shard in ((16, 16), (2, 8))
    )
    expected = parameters * (2 * (1 / 2 - 1 / 16) + 4 * (1 / 8 - 1 / 16))
    assert nested - flat == pytest.approx(expected, rel=1e-6)


def test_groups_that_do_not_nest_are_refused() -> None:
    for shard in ((3,), (2, 2)):
        with pytest.raises(ConfigError, match="shard groups"):
            stage_memory(GPT_22B, (0, 2), Layout(dp=4, shard=shard), "hybrid", 1, 1, "none")
