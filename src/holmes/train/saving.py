"""Checkpoints of a run: what a rank contributes, and how a run continues from one."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from holmes.data.batches import BatchPlan
from holmes.errors import DataError
from holmes.plan.plan import Plan
from holmes.runtime.checkpoint.folders import checkpoint_folder, prune, step_of, sweep
from holmes.runtime.checkpoint.random_state import random_state, restore_random_state
from holmes.runtime.checkpoint.read import read_checkpoint
from holmes.runtime.checkpoint.write import write_checkpoint
from holmes.runtime.groups import Groups
from holmes.runtime.sharding.optimizer import ShardedAdamW


def save(
    run: Path,
    step: int,
    keep: int,
    *,
    plan: Plan,
    groups: Groups,
    optimizer: ShardedAdamW,
    batches: BatchPlan,
) -> Path:
    """Write and commit the state before step ``step``; all ranks call it together.

    Raises:
        WriteError: on every rank, when one of them could not write.
    """
    folder = checkpoint_folder(run, step)
    if groups.rank == 0:
        sweep(run)
    groups.barrier()
    meta = {
        "step": step,
        "plan_digest": plan.schedule.digest,
        "layout": {"pp": plan.layout.pp, "dp": plan.layout.dp},
        "data": batches.position(step),
        "random": random_state(),
    }
    write_checkpoint(
        folder, groups.rank, groups.world_size, optimizer.named_shards(), meta, groups.barrier
    )
    if groups.rank == 0:
        prune(run, keep)
    return folder


def load(folder: Path, optimizer: ShardedAdamW, batches: BatchPlan) -> tuple[int, BatchPlan]:
    """Continue from a checkpoint, also one of another layout; returns step and data order.

    Raises:
        DataError: the checkpoint is damaged, or of another model or text.
    """
    meta = read_checkpoint(folder, {}).meta

    def read(name: str) -> Tensor:
        return read_checkpoint(folder, {name: None}).tensors[name]

    try:
        optimizer.load_named(read)
    except RuntimeError as error:
        raise DataError(
            "the checkpoint does not fit the model",
            where=str(folder),
            why=str(error).splitlines()[0],
            next_step="resume with the model sizes that the run began with",
        ) from None
    restore_random_state(meta["random"])
    return step_of(folder), batches.resumed(meta["data"])
