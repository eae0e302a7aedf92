"""Frozen parameters by the stage: one that trains nothing still passes gradients on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from holmes.launch.pool import Pool
from holmes.models.gpt.model import build_blocks, named_parameters
from tests.runtime.plans import Spec
from tests.runtime.reference import train_plainly
from tests.runtime.trained import BOUNDS, kind, trained, worst

pytestmark = pytest.mark.parallel
BASE = Spec(pp=2, cuts=(2,), precision="fp64", steps=2, vocabulary=41)


def of_blocks(*blocks: int) -> tuple[str, ...]:
    """Names of all parameters of some blocks."""
    modules = build_blocks(BASE.config, 0, BASE.config.blocks)
    return tuple(
        name for name, _ in named_parameters(modules, 0) if int(name.split(".")[1]) in blocks
    )


FIRST, LAST = of_blocks(0, 1), of_blocks(2, 3, 4, 5)
CASES = {
    "embedding": replace(BASE, frozen=of_blocks(0)),
    "first stage": replace(BASE, frozen=FIRST, sharding="none"),
    "first stage, sharded optimizer": replace(BASE, frozen=FIRST, dp=2, overlap=True),
    "first stage, sharded parameters": replace(BASE, frozen=FIRST, dp=2, sharding="parameters"),
    "embedding, recomputed": replace(BASE, frozen=of_blocks(0), recompute="full"),
    "first stage, zero-bubble": replace(BASE, frozen=FIRST, schedule="zero-bubble"),
    "last stage": replace(BASE, frozen=LAST, sharding="none"),
    "last stage, zero-bubble, sharded": replace(
        BASE, frozen=LAST, dp=2, sharding="gradients", schedule="zero-bubble"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_stage_that_trains_nothing(seats: Pool, name: str, tmp_path: Path) -> None:
    spec = CASES[name]
    expected, losses, norms = train_plainly(spec)
    results, found = trained(seats, spec, tmp_path)
    parameters = kind(found, "parameters/")
    assert worst(parameters, expected, spec) <= BOUNDS["fp64"]
    blocks = build_blocks(spec.config, 0, spec.config.blocks, dtype=torch.float64)
    starts = dict(named_parameters(blocks, 0))
    for frozen in spec.frozen:
        assert torch.equal(parameters[frozen], starts[frozen].detach()), frozen
    assert any(not torch.equal(parameters[name], start.detach()) for name, start in starts.items())
    for result in results:
        assert result["losses"] == pytest.approx(losses, rel=1e-12)
        assert result["norms"] == pytest.approx(norms, rel=1e-12)
    assert losses[0] != losses[1]
