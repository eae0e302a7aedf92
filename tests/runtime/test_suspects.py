"""Whose gradients went wrong: read off what an exchange overwrites, and what it leaves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from holmes.runtime.communicator import Communicator
from holmes.runtime.sharding.bucket_state import AdamWSettings
from holmes.runtime.sharding.buckets import FlatBucket, Slot, flatten
from holmes.runtime.sharding.optimizer import ShardedAdamW
from holmes.schedule.instruction import Bucket
from holmes.schedule.sharding import Shards

MEMBERS, ELEMENTS, PLACE = 4, 64, 1


def optimizer(members: int) -> tuple[ShardedAdamW, FlatBucket]:
    """One tensor on one of so many replicas, whose exchange gives the sum of alike gradients."""
    parameter = nn.Parameter(torch.ones(ELEMENTS))
    slot = Slot("w", parameter, block=0, norm_index=0, decays=False)
    shards = Shards(members=members, states=members)
    place = PLACE if members > 1 else 0
    (bucket,) = flatten([slot], [Bucket(0, (0, 1), ELEMENTS)], shards, place)
    bucket.settle()
    made = ShardedAdamW((bucket,), AdamWSettings(clip=None))

    def summed(flat: FlatBucket, comm: object) -> None:
        flat.gradients_in(*flat.shard).mul_(members)

    made._wire.sum_across = summed  # type: ignore[method-assign, assignment]
    return made, bucket


def step(made: ShardedAdamW, bucket: FlatBucket, bad: dict[int, float], *, exchanged: bool) -> None:
    """Gradients of one, some of them ``bad``; the norm is that of all members, all of them good
    but this one."""
    bucket.gradients.fill_(1.0)
    for place, value in bad.items():
        bucket.gradients[place] = value
    if exchanged:
        comm: Communicator = None  # type: ignore[assignment]
        made.reduce(bucket.index, comm)
    total = float(MEMBERS * MEMBERS * ELEMENTS) + sum(value * value for value in bad.values())
    made.add_squares(torch.zeros(1, dtype=torch.float64))
    made.set_norm_limit(2 * MEMBERS * math.sqrt(ELEMENTS))
    made.step(torch.tensor([total], dtype=torch.float64))


@pytest.mark.parametrize("members", [1, MEMBERS])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
@pytest.mark.parametrize("place", [0, 20, ELEMENTS - 1])
def test_one_bad_value_anywhere_is_seen(members: int, value: float, place: int) -> None:
    """In the part that the exchange overwrites (from 16 to 32), before and behind it."""
    made, bucket = optimizer(members)
    step(made, bucket, {}, exchanged=members > 1)
    assert made.suspects() == []
    step(made, bucket, {place: value}, exchanged=members > 1)
    assert made.suspects() == ["w"]
    step(made, bucket, {}, exchanged=members > 1)
    assert made.suspects() == []


def test_who_is_as_always_is_not_suspected() -> None:
    """The step is skipped because of another rank."""
    made, bucket = optimizer(MEMBERS)
    step(made, bucket, {}, exchanged=True)
    bucket.gradients.fill_(1.0)
    made.reduce(bucket.index, None)  # type: ignore[arg-type]
    outcome = made.step(torch.tensor([math.nan], dtype=torch.float64))
    assert not outcome.applied and made.suspects() == []
