"""Ranks as threads that share a folder and a store: enough for a room that needs no groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch._C._distributed_c10d import HashStore

from holmes.runtime.checkpoint.agreement import Conversation, Members
from holmes.runtime.checkpoint.folders import Keep, checkpoint_folder, step_of
from holmes.runtime.checkpoint.shard import Shard, on_host
from holmes.runtime.checkpoint.write import Committed, OnPhase, Save, no_phase, write_checkpoint

Tensors = dict[str, torch.Tensor]


def model_tensors() -> Tensors:
    """Odd sizes and several types, so that no split is even."""
    generator = torch.Generator().manual_seed(1)
    return {
        "parameters/early": torch.randn(7, 5, generator=generator),
        "parameters/late": torch.randn(13, generator=generator, dtype=torch.float64),
        "exp_avg/early": torch.randn(7, 5, generator=generator).to(torch.bfloat16),
        "step": torch.tensor(3),
        "mask": torch.rand(5, generator=generator) > 0.5,
    }


def interval(elements: int, rank: int, world: int) -> tuple[int, int]:
    """Contiguous shares, the last ones possibly empty."""
    share = -(-elements // world)
    return min(rank * share, elements), min((rank + 1) * share, elements)


def shards_of(tensors: Tensors, rank: int, world: int) -> dict[str, Shard]:
    """The share of one rank of every tensor."""
    shards = {}
    for name, tensor in tensors.items():
        start, stop = interval(tensor.numel(), rank, world)
        part = tensor.reshape(-1)[start:stop]
        shards[name] = Shard(part, tuple(tensor.shape), start, stop)
    return shards


def write_shards(
    folder: Path,
    ranks: Sequence[Mapping[str, Shard]],
    meta: Mapping[str, Any] | None = None,
    on_phase: Callable[[int, str], None] = lambda rank, phase: None,
    keep: Keep | None = None,
) -> list[Committed | BaseException]:
    """Write a checkpoint with these shards per rank; what each rank returned or raised."""
    store = HashStore()

    def run(rank: int) -> Committed | BaseException:
        talk = Conversation(Members(rank, len(ranks), store, 10.0), "test")
        save = Save(
            folder.parent.parent,
            step_of(folder),
            on_host(ranks[rank]),
            meta or {},
            keep or Keep(100),
        )
        try:
            return write_checkpoint(save, talk, lambda phase: on_phase(rank, phase))
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(run, range(len(ranks))))


def write_good(run: Path, step: int, tensors: Tensors | None = None, world: int = 2) -> Path:
    """Commit a checkpoint of these tensors in even shares."""
    folder = checkpoint_folder(run, step)
    given = tensors or model_tensors()
    done = write_shards(folder, [shards_of(given, rank, world) for rank in range(world)])
    assert all(isinstance(one, Committed) for one in done), done
    return folder


def write_alone(run: Path, step: int, on_phase: OnPhase = no_phase) -> None:
    """One rank saves :func:`model_tensors`; raises what the save raises."""
    save = Save(run, step, on_host(shards_of(model_tensors(), 0, 1)))
    write_checkpoint(save, Conversation(Members(), "test"), on_phase)


def equal(left: Tensors, right: Tensors) -> bool:
    """The same names, types and bits."""
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype
        for name in left
    )
