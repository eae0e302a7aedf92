"""Runs of real ranks beside plain training, and how far apart their tensors are."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from holmes.launch.pool import Pool
from holmes.models.registry import sharding_module
from tests.runtime.plans import Spec
from tests.runtime.reference import train_plainly

DEADLINE = 60
BOUNDS = {"fp32": 1e-6, "fp64": 1e-12}
"""Of the largest value of a tensor."""
NO_CLIP = 1e9
Tensors = dict[str, torch.Tensor]


def name_of(spec: Spec) -> str:
    changed = {k: v for k, v in asdict(spec).items() if v != getattr(Spec(), k)}
    return "-".join(f"{k}={v}" for k, v in changed.items())


def trained(
    ranks: Pool, spec: Spec, folder: Path, case: str = "tests.runtime.cases:train_tensor"
) -> tuple[list[Any], Tensors]:
    """What each rank reported, and every tensor of the checkpoint put together.

    Args:
        case: trains, saves by ``save_shards`` and reports ``places`` among the rest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    world = spec.world
    results = ranks.run(
        case,
        {"spec": asdict(spec), "folder": str(folder)},
        deadline_seconds=DEADLINE,
        ranks=world,
    )
    whole: Tensors = {}
    covered: dict[str, int] = {}
    for rank in range(world):
        parts = load_file(folder / f"shards-{rank}.safetensors")
        for name, (shape, start, stop, box) in results[rank]["places"].items():
            target = whole.setdefault(name, torch.full(tuple(shape), math.nan, dtype=torch.float64))
            for dim, (low, high) in enumerate(box or ()):
                target = target.narrow(dim, low, high - low)
            flat = target.reshape(-1).clone()
            assert name == "optimizer/step" or flat[start:stop].isnan().all(), f"{name} twice"
            flat[start:stop] = parts[name].double()
            target.copy_(flat.view(target.shape))
            covered[name] = covered.get(name, 0) + stop - start
    assert not any(tensor.isnan().any() for tensor in whole.values())
    return list(results), whole


def worst(found: Tensors, expected: Tensors, spec: Spec) -> float:
    """The largest max|a-b| / max|a| over tensors whose true gradient is not zero."""
    skipped = sharding_module(spec.family).zero_gradient_parameters(spec.config)
    assert found.keys() == expected.keys()
    return max(
        ((found[n] - a).abs().max() / a.abs().max()).item()
        for n, a in expected.items()
        if n not in skipped
    )


def kind(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors of one kind, by parameter."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def assert_trains_as_plain(ranks: Pool, spec: Spec, folder: Path) -> None:
    """Parameters within the bound of the precision; losses and norms alike on all ranks."""
    expected, losses, norms = train_plainly(spec)
    results, found = trained(ranks, spec, folder)
    assert worst(kind(found, "parameters/"), expected, spec) <= BOUNDS[spec.precision]
    for result in results:
        assert result["losses"] == results[0]["losses"]
        assert result["losses"] == pytest.approx(losses, rel=1e-12)
        assert result["norms"] == pytest.approx(norms, rel=1e-12)
        assert result["evaluated"] == results[0]["evaluated"]
    assert losses[-1] < losses[0]
    assert abs(losses[-1] - math.log(spec.config.vocabulary)) > 1e-3
