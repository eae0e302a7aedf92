"""Checkpoints of a run: what a rank contributes, and how a run continues from one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from holmes.data.batches import BatchPlan
from holmes.errors import DataError
from holmes.plan.plan import Plan
from holmes.runtime.checkpoint.agreement import Members
from holmes.runtime.checkpoint.check import read_manifest
from holmes.runtime.checkpoint.folders import Keep
from holmes.runtime.checkpoint.random_state import random_shard, restore_random
from holmes.runtime.checkpoint.read import Reader
from holmes.runtime.checkpoint.saver import Saver, SaverOptions
from holmes.runtime.checkpoint.shard import Shard, dtype_name
from holmes.runtime.checkpoint.write import Committed, OnPhase
from holmes.runtime.groups import Groups
from holmes.runtime.sharding.optimizer import ShardedAdamW
from holmes.train.assignment import Assignment


def make_saver(
    assignment: Assignment,
    groups: Groups,
    on_commit: Callable[[Committed], None],
    on_phase: OnPhase,
) -> Saver:
    """The saver of this rank, with a connection to the store of its own."""
    train = assignment.job.train
    members = Members(
        groups.rank,
        groups.world_size,
        groups.own_store(),
        train.deadline_seconds,
    )
    options = SaverOptions(
        Keep(train.keep_checkpoints, train.keep_every),
        train.checkpoint_async,
        on_commit,
        on_phase,
        generation=groups.generation,
    )
    return Saver(assignment.run_folder, members, groups.maximum, options)


def state_of(optimizer: ShardedAdamW, rank: int) -> dict[str, Shard]:
    """This rank's part of parameters, optimiser state and random state."""
    return {**optimizer.named_shards(), **random_shard(rank)}


def metadata(
    plan: Plan, batches: BatchPlan, step: int, norms: Sequence[float] = ()
) -> dict[str, Any]:
    """What a checkpoint says beside its tensors: layout, position in the data, last norms."""
    layout = {**plan.degrees, "sharding": plan.sharding}
    return {
        "plan_digest": plan.schedule.digest,
        "layout": layout,
        "data": batches.position(step),
        "norms": list(norms),
    }


def norms_in(folder: Path) -> list[float]:
    """The last gradient norms before a checkpoint; none where whoever wrote it kept none."""
    found = read_manifest(folder).meta.get("norms", [])
    return [float(norm) for norm in found]


def load(
    folder: Path, optimizer: ShardedAdamW, batches: BatchPlan, groups: Groups
) -> tuple[int, BatchPlan]:
    """Continue from a checkpoint, also one of another layout; returns step and data order.

    Raises:
        DataError: the checkpoint is damaged, or of another model, precision or text.
    """
    reader = Reader(folder)
    resumed = batches.resumed(_position(reader))
    expected = {
        name: (shard.global_shape, dtype_name(shard.tensor.dtype))
        for name, shard in optimizer.named_shards().items()
    }

    def read(name: str) -> Tensor:
        if name in expected and name in reader:
            _check_fits(reader, name, *expected[name])
        return reader.read(name)

    try:
        optimizer.load_named(read)
    except RuntimeError as error:
        raise _other_model(reader, str(error).splitlines()[0]) from None
    restore_random(reader, groups.rank, groups.world_size)
    return reader.manifest.step, resumed


def _position(reader: Reader) -> dict[str, Any]:
    position = reader.manifest.meta.get("data")
    if not isinstance(position, dict) or position.get("step") != reader.manifest.step:
        raise DataError("the checkpoint has no position in the data", where=str(reader.folder))
    return position


def _check_fits(reader: Reader, name: str, shape: tuple[int, ...], dtype: str) -> None:
    entry = reader.manifest.tensors[name]
    if (entry.shape, entry.dtype) != (shape, dtype):
        raise _other_model(
            reader,
            f"tensor {name} is {list(entry.shape)} {entry.dtype}, the model has "
            f"{list(shape)} {dtype}",
        )


def _other_model(reader: Reader, why: str) -> DataError:
    return DataError(
        "the checkpoint does not fit the model",
        where=str(reader.folder),
        why=why,
        next_step="resume with the model sizes and precision that the run began with",
    )
