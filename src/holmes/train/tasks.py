"""What a rank process runs: train, measure its blocks, train the plain reference.

Each function is called by name with a RankContext and JSON-able arguments, in a
session's warm ranks or in a process that torchrun or Slurm started.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holmes.errors import UnavailableError
from holmes.job.job import Job
from holmes.launch.context import RankContext
from holmes.models.registry import describe, family_of, model_module, sharding_module
from holmes.plan.plan import Plan
from holmes.runtime.checkpoint.fence import require_current
from holmes.runtime.checkpoint.read import read_checkpoint
from holmes.runtime.groups import GroupOptions, Groups, open_groups
from holmes.runtime.pipeline.pace import Pace
from holmes.runtime.pipeline.program import MicroBatch, StagePlace
from holmes.runtime.pipeline.stage import StageSpec, TorchStage
from holmes.runtime.profile import Measured, profile_blocks, profile_optimizer, run_chain
from holmes.runtime.profile_links import busy_per_byte, profile_links
from holmes.runtime.rendezvous import Rendezvous
from holmes.runtime.tensor.share import Share, share_of
from holmes.train.assignment import Assignment
from holmes.train.compare import compare_parameters
from holmes.train.fault_points import FaultPoints
from holmes.train.identity import identity_of
from holmes.train.parts import build_parts, open_data, prepare_data
from holmes.train.reference import train_reference
from holmes.train.settings import dtype_of
from holmes.train.stop import StopRequest
from holmes.train.trainer import Outside, Trainer


def train(
    context: RankContext, assignment: Mapping[str, Any], grace_seconds: float | None = None
) -> dict[str, Any]:
    """Run an assignment on this rank; returns where it ended.

    SIGTERM ends it after a step, with a checkpoint, or after the grace; where there is none the
    caller ends ranks that do not manage.
    """
    given = Assignment.from_json(assignment)
    with StopRequest(grace_seconds) as stop:
        return train_until(context, given, lambda: stop.asked)


def train_until(
    context: RankContext, given: Assignment, asked: Callable[[], bool]
) -> dict[str, Any]:
    """Run an assignment on this rank until its end, or until a rank was asked to stop."""
    torch.set_num_threads(given.job.train.threads)
    torch.use_deterministic_algorithms(given.job.train.deterministic)
    rank = given.logical_rank(context)
    points = FaultPoints(given, rank)
    points.reach("start")
    with open_plan_groups(given, rank, context) as groups:
        points.reach("join")
        context.report({"phase": "building the model"})
        parts = build_parts(given, groups)
        context.report({"phase": "loading the state"})
        points.reach("load")
        try:
            trainer = Trainer(given, groups, parts, Outside(context.report, asked, points))
            context.report({"phase": "training", "from": trainer.first_step})
            result = trainer.run()
        finally:
            parts.interpreter.close()
    return {
        "rank": rank,
        "step": result.step,
        "stopped": result.stopped,
        "loss": result.loss,
        "validation": result.validation,
        "checkpoint": str(result.checkpoint) if result.checkpoint else None,
    }


@contextmanager
def open_plan_groups(given: Assignment, rank: int, context: RankContext) -> Iterator[Groups]:
    """The groups of the plan, open as long as the context."""
    context.report({"phase": "opening groups"})
    if given.generation:
        require_current(given.run_folder, given.generation, f"rank {rank}")
    rendezvous = Rendezvous(
        context.master_address,
        context.master_port,
        context.hosts_store,
        context.attempt,
        given.generation,
        given.secret,
        identity_of(given),
    )
    groups = open_groups(given.plan, rank, rendezvous, _options(given, context))
    failed = True
    try:
        yield groups
        failed = False
    finally:
        groups.close(failed=failed)


def _options(given: Assignment, context: RankContext) -> GroupOptions:
    device = torch.device("cpu")
    if given.backend == "nccl":
        found = torch.cuda.device_count()
        if context.local_rank >= found:
            raise UnavailableError(
                f"process {context.local_rank} of this machine has no GPU",
                where=f"launch rank {context.rank}",
                why=f"the machine shows {found}",
                next_step="start one process per GPU (--nproc-per-node)",
            )
        device = torch.device("cuda", context.local_rank)
        torch.cuda.set_device(device)
    seconds = given.job.train.deadline_seconds
    return GroupOptions(
        backend=given.backend,
        timeout_seconds=seconds,
        start_seconds=given.job.launch.start_seconds,
        interface_override=given.interface_override,
        device=device,
    )


def profile(context: RankContext, assignment: Mapping[str, Any]) -> dict[str, Any]:
    """What this rank and the groups of a plan can do: busy seconds and seconds on the wire.

    Returns:
        ``{links: [{group, op, bytes_, seconds}]}`` and, where devices are real, ``{blocks:
        {kind: {forward, backward, spread}}, optimizer: seconds per element, drag: busy
        seconds that computation loses per byte exchanged beside it, or None}``; with tensor
        ranks also ``split_blocks``, seconds of a share of each block with its collectives.
    """
    given = Assignment.from_json(assignment)
    torch.set_num_threads(given.job.train.threads)
    rank = given.logical_rank(context)
    found: dict[str, Any] = {}
    with open_plan_groups(given, rank, context) as groups:
        found["links"] = [asdict(timing) for timing in profile_links(groups, given.plan)]
        if given.virtual:
            return found
        pace = Pace(given.compute_cores(rank))
        stage, kinds, batch = short_model(given.job, given.plan.batch.micro)
        groups.barrier()
        measured = profile_blocks(stage, kinds, batch, pace)
        found["blocks"] = _as_json(measured)
        if given.plan.tensor > 1:
            found["split_blocks"] = _as_json(_profile_split(given, groups, pace))
        found["optimizer"] = profile_optimizer(pace)
        turn = sum(measured[kind].forward + measured[kind].backward for kind in kinds)
        groups.barrier()
        found["drag"] = busy_per_byte(
            groups, given.plan, lambda: run_chain(stage, kinds, batch, pace), turn
        )
    return found


def _profile_split(given: Assignment, groups: Groups, pace: Pace) -> dict[str, Measured]:
    """Seconds of blocks, collectives included, all tensor groups computing at once.

    Collectives and products take turns; what chunks hide is predicted from this.
    """
    split, tensor = sharding_module(family_of(given.job.model)).TENSOR_SPLIT, given.plan.tensor
    share = share_of(replace(given.plan, tensor_chunks=1), groups, split, pace)
    groups.barrier()
    chain = short_model(given.job, given.plan.batch.micro, share, tensor)
    return profile_blocks(*chain, pace, clock=time.perf_counter)


def _as_json(measured: Mapping[str, Measured]) -> dict[str, Any]:
    return {kind: asdict(times) for kind, times in measured.items()}


PROFILED_LAYERS = 3
"""Transformer blocks of the measured chain: several, so that caches do not hold them all."""


def short_model(
    job: Job, micro: int, share: Share | None = None, tensor: int = 1
) -> tuple[TorchStage, list[str], MicroBatch]:
    """A model of the job's blocks but few layers, the kinds of its blocks, and a micro-batch.

    Args:
        share: what this rank holds of each block; all of it by default.
        tensor: ranks that share a block.
    """
    share = share or Share()
    family = family_of(job.model)
    module, config = model_module(family), describe(family).config_from(job.model)
    dtype = dtype_of(job.train.precision)
    layers = min(PROFILED_LAYERS, config.layers)
    blocks = [
        *module.build_blocks(config, 0, 1 + layers, dtype=dtype),
        *module.build_blocks(config, config.blocks - 1, config.blocks, dtype=dtype),
    ]
    share.apply(blocks, [*range(1 + layers), config.blocks - 1])
    generator = torch.Generator().manual_seed(0)
    shape = (micro, config.sequence)
    tokens = torch.randint(config.vocabulary, shape, generator=generator)
    spec = StageSpec(
        StagePlace(0, 0, len(blocks), len(blocks)),
        blocks,
        share.loss(module.loss),
        loss_divisor=1,
        boundary=torch.empty((micro, config.sequence // tensor, config.hidden), dtype=dtype),
        autocast=partial(module.autocast, job.train.precision),
    )
    return (
        share.stage(spec),
        ["embedding", *["transformer"] * layers, "head"],
        MicroBatch(tokens, tokens),
    )


def shares_of(plan: Plan) -> tuple[tuple[int, int], ...]:
    """Samples of a micro-batch of each replica of the last stage."""
    return tuple(dict.fromkeys(plan.samples_of(rank) for rank in plan.stages[-1].ranks))


def compare_with_reference(
    context: RankContext,
    assignment: Mapping[str, Any],
    checkpoint: str,
    microbatch_order: list[int],
) -> dict[str, Any]:
    """Train the plain reference in this process and compare a checkpoint with it."""
    given = Assignment.from_json(assignment)
    torch.set_num_threads(1)
    family = family_of(given.job.model)
    config = describe(family).config_from(given.job.model)
    batches, _ = open_data(given.job, given.tokens or prepare_data(given.job).files, config)
    context.report({"phase": "plain single-process run"})
    reference = train_reference(
        given.job,
        batches,
        steps=given.steps,
        shares=shares_of(given.plan),
        microbatch_order=microbatch_order,
        on_step=lambda step: context.report({"phase": "plain single-process run", "step": step}),
    )
    stored = read_checkpoint(Path(checkpoint)).tensors
    zero = sharding_module(family).zero_gradient_parameters(config)

    def compared(expected: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
        found = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        return compare_parameters(expected, found, zero)

    means = compared(reference.means, "exp_avg/")
    return {
        **compared(reference.parameters, "parameters/"),
        "max_gradient_difference": means["max_relative_difference"],
        "reference_losses": list(reference.losses),
    }
