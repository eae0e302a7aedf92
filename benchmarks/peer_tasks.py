"""What the ranks of `peers.py` run: a job through this runtime, or through PyTorch's own."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from holmes.job.job import Job
from holmes.launch.context import RankContext
from holmes.models.registry import describe, family_of, model_module
from holmes.train.assignment import Assignment
from holmes.train.fault_points import FaultPoints
from holmes.train.parts import build_parts
from holmes.train.tasks import open_plan_groups
from holmes.train.trainer import Outside, Trainer

DEADLINE = timedelta(seconds=60)


def ours(context: RankContext, assignment: Mapping[str, Any]) -> dict[str, Any]:
    """Steps of a plan by this project's runtime, watched as in a run but not written down."""
    given = Assignment.from_json(assignment)
    torch.set_num_threads(1)
    rank = given.logical_rank(context)
    with open_plan_groups(given, rank, context) as groups:
        parts = build_parts(given, groups)
        outside = Outside(context.report, lambda: False, FaultPoints(given, rank))
        trainer = Trainer(given, groups, parts, outside)
        try:
            return _timed(lambda step: trainer.step(step).loss, given.steps, groups.barrier)
        finally:
            trainer.recorder.close()
            trainer.monitor.close()
            parts.interpreter.close()


def peer(
    context: RankContext, job: Mapping[str, Any], kind: str, interfaces: Mapping[str, str]
) -> dict[str, Any]:
    """The same model, batches and optimiser by a peer."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = interfaces[context.node_name or ""]
    store = dist.TCPStore(
        context.master_address,
        context.master_port,
        context.world_size,
        context.hosts_store,
        timeout=DEADLINE,
    )
    dist.init_process_group(
        "gloo", store=store, rank=context.rank, world_size=context.world_size, timeout=DEADLINE
    )
    try:
        given = Job.model_validate(job)
        step = PEERS[kind](given)
        return _timed(step, given.train.steps, dist.barrier)
    finally:
        dist.destroy_process_group()


def _timed(
    step: Callable[[int], float | None], steps: int, barrier: Callable[[], Any]
) -> dict[str, Any]:
    """Seconds and processor seconds of each step, barrier to barrier; the last loss."""
    wall, busy = [], []
    loss = None
    barrier()
    for number in range(steps):
        start, used = time.perf_counter(), _processor_seconds()
        loss = step(number)
        barrier()
        wall.append(time.perf_counter() - start)
        busy.append(_processor_seconds() - used)
    return {"wall": wall, "busy": busy, "loss": loss}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _model(job: Job) -> tuple[list[nn.Module], Any, Any]:
    family = family_of(job.model)
    module, config = model_module(family), describe(family).config_from(job.model)
    return module.build_blocks(config, 0, config.blocks, seed=0), module, config


def _samples(job: Job, config: Any, step: int, part: int, parts: int) -> tuple[Tensor, Tensor]:
    """Random text, the same for every kind: [global / parts, sequence] tokens and targets."""
    generator = torch.Generator().manual_seed(step)
    shape = (job.batch.global_, config.sequence + 1)
    both = torch.randint(config.vocabulary, shape, generator=generator).chunk(parts)[part]
    return both[:, :-1], both[:, 1:]


def _adamw(parameters: Any, job: Job) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=job.optimizer.lr, foreach=False, fused=False)


def _data_parallel(job: Job, wrap: Callable[[nn.Sequential], nn.Module]) -> Callable[[int], float]:
    """Replicas with accumulated micro-batches; gradients are exchanged with the last."""
    blocks, module, config = _model(job)
    model = wrap(nn.Sequential(*blocks))
    optimizer = _adamw(model.parameters(), job)
    micro, rank, world = job.batch.micro or 1, dist.get_rank(), dist.get_world_size()

    def step(number: int) -> float:
        tokens, targets = _samples(job, config, number, rank, world)
        count = len(tokens) // micro
        total = 0.0
        for index in range(count):
            _exchange(model, index == count - 1)
            part = slice(index * micro, (index + 1) * micro)
            loss = module.loss(model(tokens[part]), targets[part]) / count
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), job.optimizer.clip or 1e9)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step


def _exchange(model: nn.Module, last: bool) -> None:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.require_backward_grad_sync = last
    else:
        model.set_requires_gradient_sync(last)  # type: ignore[operator]


def _ddp(job: Job) -> Callable[[int], float]:
    return _data_parallel(
        job, lambda model: nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    )


def _fsdp2(job: Job) -> Callable[[int], float]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def wrap(model: nn.Sequential) -> nn.Module:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for block in model:
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    return _data_parallel(job, wrap)


def _pipelining(job: Job) -> Callable[[int], float]:
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    blocks, module, config = _model(job)
    rank, world = dist.get_rank(), dist.get_world_size()
    size = -(-len(blocks) // world)
    mine = nn.Sequential(*blocks[rank * size : (rank + 1) * size])
    stage = PipelineStage(mine, rank, world, torch.device("cpu"))
    count = job.batch.global_ // (job.batch.micro or 1)
    schedule = Schedule1F1B(stage, count, loss_fn=module.loss)
    optimizer = _adamw(mine.parameters(), job)

    def step(number: int) -> float:
        tokens, targets = _samples(job, config, number, 0, 1)
        losses: list[Tensor] = []
        last = rank == world - 1
        inputs = (tokens,) if rank == 0 else ()
        schedule.step(*inputs, **({"target": targets, "losses": losses} if last else {}))
        nn.utils.clip_grad_norm_(mine.parameters(), job.optimizer.clip or 1e9)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return sum(loss.item() for loss in losses) / count if last else 0.0

    return step


PEERS: dict[str, Callable[[Job], Callable[[int], float]]] = {
    "ddp": _ddp,
    "fsdp2": _fsdp2,
    "torch pipelining": _pipelining,
}
