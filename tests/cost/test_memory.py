"""Bytes per rank: exact sums, sharding, and published memory figures."""

from __future__ import annotations

import pytest

from holmes.cost.memory import MARGIN, RUNTIME_BYTES, memory_bytes, stage_memory
from holmes.errors import ConfigError
from holmes.models.gpt.config import GptConfig
from holmes.models.gpt.describe import workload
from holmes.plan.layout import Layout
from holmes.workload import Workload
from tests.simulate.plans import Case, make

GPT_22B = workload(GptConfig(48, 6144, 64, 2048, 51200, tied=True), "mixed")


def states(work: Workload, blocks: tuple[int, int], layout: Layout, sharding: str) -> float:
    """Bytes with no activations, margin and process taken off."""
    each = stage_memory(work, blocks, layout, sharding, 0, 0, "full")  # type: ignore[arg-type]
    return (each - RUNTIME_BYTES) / (1 + MARGIN)


@pytest.mark.parametrize(
    ("sharding", "whole", "shared"),
    [("none", 18, 0), ("optimizer", 6, 12), ("gradients", 2, 16), ("parameters", 0, 18)],
)
def test_states_are_divided_as_the_sharding_says(sharding: str, whole: int, shared: int) -> None:
    layout = Layout(dp=8)
    blocks = GPT_22B.blocks[1:5]
    parameters = sum(block.parameters for block in blocks)
    largest = max(block.parameters for block in blocks)
    expected = parameters * (whole + shared / 8) + largest * (2 + 4)
    if sharding == "parameters":
        expected += largest * 2
    assert states(GPT_22B, (1, 5), layout, sharding) == pytest.approx(expected, rel=1e-6)


def test_published_states_and_activations_of_gpt_22b() -> None:
    """Korthikanti et al., figure 1: 45.6 GiB of states and 59.3 of activations on 8 tensor ranks.

    Their states hold 16 to 20 bytes a parameter by how gradients are kept, and their
    activation bar counts no logits: 15 %.
    """
    layout = Layout(tp=8)
    held = states(GPT_22B, (0, 50), layout, "none") / 2**30
    assert held == pytest.approx(45.56, rel=0.15)
    everything = stage_memory(GPT_22B, (0, 50), layout, "none", 1, 4, "none")
    activations = (everything - RUNTIME_BYTES) / (1 + MARGIN) / 2**30 - held
    assert activations == pytest.approx(59.25, rel=0.15)


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


def test_unknown_sharding_is_refused() -> None:
    with pytest.raises(ConfigError, match="no memory model"):
        stage_memory(GPT_22B, (0, 2), Layout(), "three-level", 1, 1, "none")
