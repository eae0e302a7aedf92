"""Tensor collectives in chunks beside products: the same results, and time side by side."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from holmes.errors import ConfigError
from holmes.launch.pool import Pool
from holmes.plan.program import program_of
from holmes.planner.groups import with_bytes
from holmes.runtime.capabilities import check
from tests.runtime.plans import Spec, plan_of
from tests.runtime.trained import DEADLINE, assert_trains_as_plain, name_of, trained

pytestmark = pytest.mark.parallel

SPECS = [
    Spec(tp=2, chunks=2, precision="fp64", tied=True, vocabulary=41),
    Spec(tp=2, pp=2, chunks=3, precision="fp64", recompute="full", schedule="gpipe"),
    Spec(tp=4, chunks=2, heads=4, key_heads=2, family="llama", precision="fp64"),
    Spec(tp=2, cp=2, chunks=5, heads=4, precision="fp64", recompute="selective"),
]
"""A rank has four tokens, or two: the second has uneven chunks, the last more than tokens."""


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_training_equals_plain_training(ranks: Pool, spec: Spec, tmp_path: Path) -> None:
    assert_trains_as_plain(ranks, spec, tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_chunks_change_no_bit(ranks: Pool, precision: str, tmp_path: Path) -> None:
    """Rows of a product are what they are in the whole product, and sums go in rank order."""
    spec = Spec(tp=2, precision=precision, layers=2, sequence=64, micro=1, microbatches=2, steps=2)
    results, plain = trained(ranks, spec, tmp_path / "whole")
    cut, found = trained(ranks, replace(spec, chunks=2), tmp_path / "chunks")
    assert [r["losses"] for r in cut] == [r["losses"] for r in results]
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


def test_the_trace_shows_collectives_beside_products(ranks: Pool) -> None:
    spec = Spec(tp=2, chunks=2, layers=2, sequence=512, hidden=128, micro=1, microbatches=2)
    results = ranks.run(
        "tests.runtime.cases:inner_spans",
        {"spec": asdict(spec)},
        deadline_seconds=DEADLINE,
        ranks=2,
    )
    for result in results:
        whole = {span["id"]: span for span in result["spans"]}
        beside = {"forward": 0, "backward": 0}
        for moved in result["inner"]:
            outer = whole[moved["id"]]
            assert outer["start"] <= moved["start"] <= moved["stop"] <= outer["stop"]
            if moved["lane"] == "compute":
                continue
            assert moved["lane"] == "comm:tensor.0" and moved["bytes"] > 0
            beside[outer["op"]] += sum(
                max(0, min(moved["stop"], other["stop"]) - max(moved["start"], other["start"]))
                for other in result["inner"]
                if other["id"] == moved["id"] and other["lane"] == "compute"
            )
        assert min(beside.values()) > 0
        ops = [(whole[s["id"]]["op"], s["lane"] == "compute", s["op"]) for s in result["inner"]]
        microbatches, layers, chunks = 2, 2, 2
        each = microbatches * chunks
        # Before attention, MLP and head; behind attention and MLP.
        assert ops.count(("forward", False, "all_gather")) == each * (2 * layers + 1)
        assert ops.count(("forward", False, "reduce_scatter")) == each * 2 * layers
        assert ops.count(("backward", False, "all_gather")) == each * 2 * layers
        assert ops.count(("backward", False, "reduce_scatter")) == each * (2 * layers + 1)
        assert ops.count(("backward", True, "weight_gradient")) == microbatches * (4 * layers + 1)


def test_bytes_are_those_of_the_plan(ranks: Pool) -> None:
    spec = Spec(tp=2, chunks=3)
    results = ranks.run(
        "tests.runtime.tensor_cases:count_tensor_bytes",
        {"spec": asdict(spec)},
        deadline_seconds=DEADLINE,
        ranks=2,
    )
    plan = plan_of(spec)
    (group,) = (g for g in with_bytes(plan.groups, program_of(plan), plan) if g.axis == "tensor")
    sent = sum(
        (2 if op == "all_reduce" else 1) * size // 2
        for result in results
        for op, (_, size) in result.items()
    )
    assert sent == pytest.approx(group.bytes_per_step, rel=0.05)


def test_a_schedule_that_puts_weight_gradients_off_is_refused() -> None:
    spec = Spec(tp=2, pp=2, chunks=2, schedule="zero-bubble")
    check(plan_of(replace(spec, chunks=1)))
    with pytest.raises(ConfigError, match="tensor_chunks: 2 with zero-bubble") as error:
        check(plan_of(spec))
    assert error.value.exit_code == 78
