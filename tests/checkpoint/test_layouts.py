"""From layout to layout on real ranks: all degrees, sharding, partition, buckets."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from holmes.launch.pool import Pool
from holmes.runtime.checkpoint.read import Reader, read_checkpoint

LAYOUTS: list[dict[str, Any]] = [
    {"pp": 2, "dp": 2},
    {"pp": 4, "dp": 1, "blocks_per_bucket": 1, "microbatches": 8},
    {"pp": 1, "dp": 4, "microbatches": 2},
    {"pp": 2, "dp": 2, "sharding": "none", "cuts": (2,)},
    {"pp": 1, "dp": 1, "microbatches": 8},
    {"pp": 2, "dp": 2, "cuts": (4,)},
    {"pp": 2, "dp": 1, "microbatches": 8},
    {"pp": 1, "dp": 1, "tp": 2, "microbatches": 8},
    {"pp": 1, "dp": 2, "tp": 2, "sharding": "none"},
    {"pp": 2, "dp": 1, "tp": 2, "microbatches": 8, "cuts": (4,)},
    {"pp": 1, "dp": 3, "sharding": "none", "microbatches": 2},
    {"pp": 2, "dp": 1, "meshes": ((2, 1), (1, 2)), "micro": 2, "microbatches": 8},
    {"pp": 2, "dp": 1, "meshes": ((1, 1), (1, 3)), "micro": 4, "cuts": (2,)},
    {"pp": 1, "dp": 4, "sharding": "parameters", "microbatches": 2},
    {"pp": 1, "dp": 4, "sharding": "three-level", "shard": (2, 2), "microbatches": 2},
    {"pp": 1, "dp": 4, "sharding": "hybrid", "shard": (2,), "microbatches": 2},
    {"pp": 2, "dp": 2},
]
"""Neighbours differ in at least one of degrees, sharding, partition and buckets."""


def world_of(layout: dict[str, Any]) -> int:
    meshes = layout.get("meshes", ((layout.get("tp", 1), layout["dp"]),) * layout["pp"])
    return sum(tp * dp for tp, dp in meshes)


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Parameters and optimiser state; the random state belongs to the ranks of a layout."""
    tensors = read_checkpoint(folder).tensors
    return {name: value for name, value in tensors.items() if not name.startswith("random/")}


@pytest.mark.parallel
@pytest.mark.parametrize("tied", [False, True])
def test_a_state_survives_every_change_of_layout(ranks: Pool, tmp_path: Path, tied: bool) -> None:
    source: str | None = None
    folders = []
    for number, layout in enumerate(LAYOUTS):
        spec = {**layout, "tied": tied, "vocabulary": 41}
        world = world_of(layout)
        args = {
            "spec": spec,
            "source": source,
            "target": str(tmp_path / str(number)),
            "steps": 0 if source else 2,
        }
        results = ranks.run("tests.checkpoint.cases:hop", args, deadline_seconds=60, ranks=world)
        assert len({result["folder"] for result in results}) == 1
        assert [result["first"] for result in results] == [2 if source else 0] * world
        assert [result["samples"] for result in results] == [32 if source else 0] * world
        source = results[0]["folder"]
        folders.append(Path(source))
    states = [state(folder) for folder in folders]
    assert len(states[0]) > 60
    for before, after in pairwise(states):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    moments = [value for name, value in states[0].items() if name.startswith("exp_avg/")]
    assert all(value.abs().max() > 0 for value in moments)
    worlds = [Reader(folder).manifest.world for folder in folders]
    assert worlds == [world_of(layout) for layout in LAYOUTS]
