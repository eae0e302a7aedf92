"""Ranks as threads that share a folder: enough for a room that only needs a barrier."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from holmes.runtime.checkpoint import Shard, write_checkpoint

Tensors = dict[str, torch.Tensor]


def model_tensors() -> Tensors:
    """Odd sizes and several types, so that no split is even."""
    generator = torch.Generator().manual_seed(1)
    return {
        "parameters/early": torch.randn(7, 5, generator=generator),
        "parameters/late": torch.randn(13, generator=generator, dtype=torch.float64),
        "exp_avg/early": torch.randn(7, 5, generator=generator).to(torch.bfloat16),
        "step": torch.tensor(3),
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
    folder: Path, ranks: Sequence[Mapping[str, Shard]], meta: Mapping[str, Any] | None = None
) -> list[BaseException | None]:
    """Write a checkpoint with these shards per rank; what each rank raised."""
    barrier = threading.Barrier(len(ranks), timeout=30)

    def run(rank: int) -> BaseException | None:
        try:
            write_checkpoint(
                folder, rank, len(ranks), ranks[rank], meta or {}, lambda: _wait(barrier)
            )
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(run, range(len(ranks))))


def write_all(
    folder: Path,
    tensors: Tensors,
    world: int,
    meta: Mapping[str, Any] | None = None,
    break_rank: int | None = None,
) -> list[BaseException | None]:
    """The tensors in even shares on ``world`` ranks. ``break_rank`` cannot write."""
    ranks = [shards_of(tensors, rank, world) for rank in range(world)]
    if break_rank is not None:
        ranks[break_rank]["broken"] = Shard(Unwritable.make(), (2,), 0, 2)
    return write_shards(folder, ranks, meta)


def _wait(barrier: threading.Barrier) -> None:
    barrier.wait()


class Unwritable(torch.Tensor):
    """A tensor whose copy to the host fails as a full disk does."""

    @staticmethod
    def make() -> torch.Tensor:
        return torch.zeros(2).as_subclass(Unwritable)

    def detach(self) -> torch.Tensor:
        raise OSError(28, "No space left on device")
