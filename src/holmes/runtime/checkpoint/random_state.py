"""The random state of a rank as one more tensor of a checkpoint.

What the job draws is a function of (seed, epoch) for the data and (seed, block) for
the initial parameters, so the position is enough for these. Torch's global generator,
which an operation such as dropout draws from, is saved for each rank.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from holmes.errors import DataError
from holmes.runtime.checkpoint.read import Reader
from holmes.runtime.checkpoint.shard import Shard


def seed_random(seed: int, rank: int) -> None:
    """Start torch's generator as a function of the job and the rank."""
    _seed(f"{seed} of rank {rank}".encode())


def random_shard(rank: int) -> dict[str, Shard]:
    """State of torch's CPU generator on this rank."""
    state = torch.get_rng_state()
    return {f"random/{rank}": Shard(state, tuple(state.shape), 0, state.numel())}


def restore_random(reader: Reader, rank: int, world: int) -> None:
    """Put the generator where it was; with another number of ranks, where none of them was.

    Raises:
        DataError: when the checkpoint holds no such state.
    """
    if world == reader.manifest.world:
        set_random(reader.read(f"random/{rank}"), str(reader.folder))
        return
    first = reader.read("random/0").numpy().tobytes()
    _seed(first + f"{rank} of {world}".encode())


def set_random(state: Tensor, where: str) -> None:
    """Set the state of torch's CPU generator.

    Raises:
        DataError: when it is none.
    """
    try:
        torch.set_rng_state(state)
    except (TypeError, RuntimeError) as error:
        raise DataError(
            "the checkpoint's random state is unusable", where=where, why=str(error)
        ) from None


def _seed(words: bytes) -> None:
    digest = hashlib.sha256(words).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
