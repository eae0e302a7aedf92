"""What ranks run to show the bytes, the memory and the errors of a level of sharding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor

from holmes.launch.context import RankContext
from holmes.plan.sharding import QUANTIZED_BLOCK, error_bound
from holmes.runtime import collectives
from holmes.runtime.communicator import Communicator
from holmes.runtime.sharding.buckets import FlatBucket
from holmes.runtime.sharding.wire import Wire
from tests.runtime.cases import build, join, replica_of, run_steps, save_shards, spec_of


def train_level(context: RankContext, spec: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train; in the last step count what arrives in each group, then what the rank keeps."""
    wanted = spec_of(spec)
    groups = join(context, wanted)
    engine = build(wanted, groups)
    replica, last = replica_of(wanted, context.rank), wanted.steps - 1
    found = run_steps(engine, wanted, replica, range(last))
    for comm in groups.communicators.values():
        comm.meter.drain()
    with _all_reduces() as received:
        final = run_steps(engine, wanted, replica, range(last, wanted.steps))
    for name, comm in groups.communicators.items():
        received[name] += sum(arrival.bytes for arrival in comm.meter.drain())
    resident = engine.optimizer.resident_bytes
    engine.interpreter.gather_parameters()
    places = save_shards(engine, Path(folder), context.rank)
    engine.interpreter.close()
    groups.close()
    return {
        **{key: found[key] + final[key] for key in found},
        "received": received,
        "resident": resident,
        "places": places,
    }


@contextmanager
def _all_reduces() -> Iterator[Counter[str]]:
    """Bytes that all-reduces bring to this rank by group, 2(n-1)/n of the payload; they pass no
    meter."""
    found: Counter[str] = Counter()
    plain = collectives.all_reduce

    def counting(comm: Communicator, tensor: Tensor, op: Literal["sum", "max"] = "sum") -> None:
        found[comm.name] += 2 * (comm.size - 1) * tensor.nbytes // comm.size
        plain(comm, tensor, op)

    with patch.object(collectives, "all_reduce", counting):
        yield found


def train_bounded(context: RankContext, spec: dict[str, Any]) -> dict[str, Any]:
    """Train with quantised exchanges, each beside the exact one.

    Returns:
        ``weights``, ``gradients``: of all exchanges the largest error of an element, over the
        bound that its blocks allow; and the losses.
    """
    wanted = spec_of(spec)
    groups = join(context, wanted)
    engine = build(wanted, groups)
    worst = {"weights": 0.0, "gradients": 0.0}
    gather, reduce = Wire.gather_weights, Wire.reduce_gradients

    def gather_beside(wire: Wire, bucket: FlatBucket, comm: Communicator) -> None:
        gather(wire, bucket, comm)
        error = (collectives.own_chunk(comm, bucket.whole) - bucket.kept).abs()
        bound = error_bound(8) * _largest(bucket.kept)
        worst["weights"] = max(worst["weights"], _over(error, bound))

    def reduce_beside(wire: Wire, bucket: FlatBucket, comm: Communicator) -> None:
        before, local = bucket.sums.clone(), bucket.gradients.clone()
        order = bucket.shards.order
        largest = torch.stack([_largest(part) for part in local.chunk(comm.size)])
        own = largest[order[comm.index]].clone()
        collectives.all_reduce(comm, largest)
        others = largest[order[comm.index]] - own
        scratch = local.new_empty(collectives.scratch_elements(local.numel(), comm.size))
        exact = collectives.reduce_scatter(comm, local, scratch, order)
        reduce(wire, bucket, comm)
        error = (bucket.sums - before - exact).abs()
        worst["gradients"] = max(worst["gradients"], _over(error, error_bound(4) * others))

    with (
        patch.object(Wire, "gather_weights", gather_beside),
        patch.object(Wire, "reduce_gradients", reduce_beside),
    ):
        found = run_steps(engine, wanted, replica_of(wanted, context.rank), range(wanted.steps))
    engine.interpreter.close()
    groups.close()
    return {**worst, "losses": found["losses"]}


def _largest(values: Tensor) -> Tensor:
    """Largest magnitude of each block of a vector: [blocks]."""
    return _by_block(values, lambda block: block.abs().max())


def _over(error: Tensor, bound: Tensor) -> float:
    """The largest error of a block over its bound; blocks of zeros have no error at all."""
    most = _by_block(error, lambda block: block.max())
    assert not most[bound == 0].any()
    return float((most / torch.where(bound == 0, 1.0, bound)).max())


def _by_block(values: Tensor, reduced: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([reduced(block) for block in torch.split(values, QUANTIZED_BLOCK)])
