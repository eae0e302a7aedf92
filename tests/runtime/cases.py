"""What the ranks run in tests; every case gets a RankContext and returns JSON values."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, get_schedule_class

from holmes.errors import HolmesError
from holmes.launch.context import RankContext
from holmes.models.gpt import model as gpt
from holmes.models.gpt.sharding import zero_gradient_parameters
from holmes.models.registry import model_module, sharding_module
from holmes.plan.program import program_of
from holmes.runtime import collectives
from holmes.runtime.communicator import Communicator
from holmes.runtime.groups import GroupOptions, Groups, open_groups
from holmes.runtime.pipeline.assemble import (
    Engine,
    StageModel,
    place_of,
    real_engine,
    stages_of,
    virtual_engine,
)
from holmes.runtime.pipeline.interpreter import Interpreter
from holmes.runtime.pipeline.stage import StageSpec, TorchStage
from holmes.runtime.pipeline.virtual import BlockSeconds
from holmes.runtime.rendezvous import Rendezvous
from holmes.runtime.sharding.bucket_state import AdamWSettings
from holmes.runtime.sharding.optimizer import Outcome, ShardedAdamW
from tests.runtime.plans import Spec, plan_of
from tests.runtime.reference import (
    BETAS,
    WEIGHT_DECAY,
    Replica,
    batch_of,
    dtype_of,
    prepare,
    rate_of,
)

TIMEOUT_SECONDS = 20.0


def spec_of(values: dict[str, Any]) -> Spec:
    meshes = tuple((tp, dp) for tp, dp in values.get("meshes", ()))
    sequences = {key: tuple(values.get(key, ())) for key in ("cuts", "shard", "frozen")}
    return Spec(**{**values, **sequences, "meshes": meshes})


def replica_of(spec: Spec, rank: int) -> Replica:
    """What :func:`batch_of` needs to know of a rank."""
    if spec.meshes:
        return plan_of(spec).samples_of(rank)
    return spec.layout.coordinates(rank)[1]


def join(context: RankContext, spec: Spec, **options: Any) -> Groups:
    rendezvous = Rendezvous(
        context.master_address, context.master_port, context.hosts_store, context.attempt
    )
    settings = {"interface_override": "lo", "timeout_seconds": TIMEOUT_SECONDS, **options}
    return open_groups(plan_of(spec), context.rank, rendezvous, GroupOptions(**settings))


def build(spec: Spec, groups: Groups) -> Engine[ShardedAdamW]:
    plan = plan_of(spec)
    module, sharding = model_module(spec.family), sharding_module(spec.family)

    def blocks_of(start: int, stop: int) -> Any:
        blocks = module.build_blocks(spec.config, start, stop, dtype=dtype_of(spec))
        prepare(spec, dict(module.named_parameters(blocks, start)))
        return blocks

    model = StageModel(
        blocks_of,
        module.loss,
        sharding.decays,
        sharding.tied_parameters(spec.config),
        partial(module.autocast, spec.precision),
        tensor=sharding.TENSOR_SPLIT,
        apart=spec.apart,
        context=sharding.CONTEXT_SPLIT,
    )
    settings = AdamWSettings(
        betas=BETAS, weight_decay=WEIGHT_DECAY, clip=spec.clip, loss_scale=spec.loss_scale
    )
    engine = real_engine(plan, groups, model, settings)
    return engine


def save_parameters(engine: Engine[ShardedAdamW], path: Path) -> None:
    """Every copy that is whole, the twin of a tied weight under a name of its own."""
    tensors: dict[str, Tensor] = {}
    for slot in engine.slots:
        if not slot.parameter.untyped_storage().nbytes():
            continue
        name = slot.name if slot.counted else f"twin.{slot.name}"
        tensors[name] = slot.parameter.detach().clone()
    save_file(tensors, path)


def run_steps(
    engine: Engine[ShardedAdamW], spec: Spec, replica: Replica, steps: range
) -> dict[str, list[Any]]:
    losses, norms, spans = [], [], []
    for step in steps:
        engine.optimizer.set_learning_rate(rate_of(step))
        result = engine.interpreter.step(step, lambda m, s=step: batch_of(spec, s, replica, m))
        assert result.applied
        losses.append(result.loss)
        norms.append(result.grad_norm)
        spans.append([[s.id, s.op, s.lane, s.start, s.stop] for s in result.spans])
    return {"losses": losses, "norms": norms, "spans": spans}


def train(context: RankContext, spec: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train, save every copy of every parameter, and report."""
    wanted = spec_of(spec)
    groups = join(context, wanted)
    engine = build(wanted, groups)
    replica = replica_of(wanted, context.rank)
    found = run_steps(engine, wanted, replica, range(wanted.steps))
    engine.interpreter.gather_parameters()
    save_parameters(engine, Path(folder) / f"{context.rank}.safetensors")
    evaluated = engine.interpreter.evaluate(lambda m: batch_of(wanted, 999, replica, m), 2)
    engine.interpreter.close()
    groups.close()
    return {**found, "evaluated": evaluated}


def resume(context: RankContext, spec: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train half, hand the named shards over through files, load into a fresh engine, go on."""
    wanted = spec_of(spec)
    groups = join(context, wanted)
    replica = replica_of(wanted, context.rank)
    half = wanted.steps // 2
    first = build(wanted, groups)
    run_steps(first, wanted, replica, range(half))
    first.interpreter.gather_parameters()
    shards = first.optimizer.named_shards()
    where = Path(folder)
    save_file(
        {f"{k}@{s.start}": s.tensor.clone().reshape(-1) for k, s in shards.items()},
        where / f"shards-{context.rank}.safetensors",
    )
    shapes = {name: shard.global_shape for name, shard in shards.items()}
    first.interpreter.close()
    groups.barrier()
    parts: dict[str, dict[int, Tensor]] = {}
    for file in sorted(where.glob("shards-*.safetensors")):
        for key, tensor in load_file(file).items():
            name, _, start = key.rpartition("@")
            parts.setdefault(name, {})[int(start)] = tensor
    second = build(wanted, groups)
    second.optimizer.load_named(
        lambda name: torch.cat([parts[name][start] for start in sorted(parts[name])])
    )
    run_steps(second, wanted, replica, range(half, wanted.steps))
    second.interpreter.gather_parameters()
    save_parameters(second, where / f"{context.rank}.safetensors")
    second.interpreter.close()
    groups.close()
    return {"names": len(shapes)}


def not_finite(context: RankContext, spec: dict[str, Any]) -> dict[str, Any]:
    """One infinite weight gradient on one rank: all ranks skip, nothing changes; then go on."""
    wanted = spec_of(spec)
    groups = join(context, wanted)
    engine = build(wanted, groups)
    before = {slot.name: slot.parameter.detach().clone() for slot in engine.slots}
    broken = engine.slots[0].parameter
    hook = broken.register_hook(lambda g: g * float("inf")) if context.rank == 0 else None
    replica = replica_of(wanted, context.rank)
    result = engine.interpreter.step(0, lambda m: batch_of(wanted, 0, replica, m))
    engine.interpreter.gather_parameters()
    same = all(torch.equal(before[s.name], s.parameter) for s in engine.slots)
    if hook is not None:
        hook.remove()
    again = engine.interpreter.step(1, lambda m: batch_of(wanted, 1, replica, m))
    engine.interpreter.close()
    groups.close()
    return {"applied": [result.applied, again.applied], "same": same, "loss": again.loss}


def compare_collectives(context: RankContext, spec: dict[str, Any]) -> dict[str, Any]:
    """The direct exchange against the obvious: everybody gets everything, adds in rank order."""
    groups = join(context, spec_of(spec))
    comm = groups["world"]
    worst = 0.0
    for chunk in (1, 3, 1000):
        for dtype in (torch.float32, torch.float64):
            everybody = [
                torch.randn(
                    chunk * comm.size, dtype=dtype, generator=torch.Generator().manual_seed(rank)
                )
                for rank in range(comm.size)
            ]
            total = everybody[0].clone()
            for other in everybody[1:]:
                total += other
            mine = everybody[comm.index].clone()
            needed = collectives.scratch_elements(mine.numel(), comm.size)
            own = collectives.reduce_scatter(comm, mine, torch.empty(needed, dtype=dtype))
            assert own.data_ptr() == mine[comm.index * chunk :].data_ptr()
            expected = total[comm.index * chunk : (comm.index + 1) * chunk]
            assert torch.equal(own, expected)
            collectives.all_gather(comm, mine)
            assert torch.equal(mine, total)
            summed = everybody[comm.index].clone()
            collectives.all_reduce(comm, summed)
            worst = max(worst, (summed - total).abs().max().item())
    largest = groups.maximum(float(context.rank), -float(context.rank))
    groups.close()
    return {"worst_all_reduce": worst, "maximum": list(largest)}


def die_in_step(context: RankContext, spec: dict[str, Any], victim: int) -> dict[str, Any]:
    """One rank is gone in step 1; the others must say so, soon."""
    wanted = spec_of(spec)
    groups = join(context, wanted, timeout_seconds=8.0)
    engine = build(wanted, groups)
    replica = replica_of(wanted, context.rank)
    engine.interpreter.step(0, lambda m: batch_of(wanted, 0, replica, m))
    if context.rank == victim:
        os._exit(9)
    began = time.monotonic()
    try:
        for step in range(1, 50):
            engine.interpreter.step(step, lambda m: batch_of(wanted, 1, replica, m))
    except HolmesError as error:
        context.report(
            {
                "text": error.text(),
                "code": error.exit_code,
                "seconds": time.monotonic() - began,
            }
        )
    time.sleep(30)
    return {}


def freeze(context: RankContext, spec: dict[str, Any]) -> dict[str, Any]:
    """The last rank stops answering but keeps its connections: the timeout must end the wait."""
    wanted = spec_of(spec)
    groups = join(context, wanted, timeout_seconds=2.0)
    engine = build(wanted, groups)
    if context.rank == groups.world_size - 1:
        time.sleep(20)
    engine.interpreter.step(0, lambda m: batch_of(wanted, 0, 0, m))
    return {}


def open_badly(context: RankContext, spec: dict[str, Any], interfaces: list[str]) -> dict[str, Any]:
    """Open groups with an interface per rank; report the error each rank gets."""
    try:
        join(
            context,
            spec_of(spec),
            interface_override=interfaces[context.rank],
            start_seconds=5.0,
        )
    except HolmesError as error:
        return {"text": error.text(), "code": error.exit_code}
    return {"text": "", "code": 0}


def reopen(context: RankContext, spec: dict[str, Any], ports: list[int]) -> dict[str, Any]:
    """Open, use and close groups several times in one warm process."""
    wanted = spec_of(spec)
    names: list[list[str]] = []
    for port in ports:
        rendezvous = Rendezvous(context.master_address, port, context.hosts_store)
        options = GroupOptions(interface_override="lo", timeout_seconds=TIMEOUT_SECONDS)
        groups = open_groups(plan_of(wanted), context.rank, rendezvous, options)
        groups.barrier()
        names.append(sorted(groups.communicators))
        groups.close()
    return {"names": names}


def virtual(context: RankContext, spec: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Steps on virtual devices; spans with their bytes."""
    wanted = spec_of(spec)
    plan = plan_of(wanted)
    groups = join(context, wanted)
    times = dict.fromkeys(
        range(len(plan.workload.blocks)), BlockSeconds(seconds, 2 * seconds, seconds)
    )
    engine = virtual_engine(plan, groups, times, 1e-9)
    spans = [
        [[s.id, s.op, s.start, s.stop] for s in engine.interpreter.step(n).spans]
        for n in range(wanted.steps)
    ]
    engine.interpreter.gather_parameters()
    engine.interpreter.close()
    groups.close()
    return {"spans": spans, "rank": context.rank}


class KeepGradients:
    """Stands for the optimiser: nothing is exchanged, gradients stay where backward left them."""

    def gather(self, bucket: int, comm: Communicator) -> None:
        return None

    def reduce(self, bucket: int, comm: Communicator) -> None:
        return None

    def across(self, bucket: int, comm: Communicator) -> None:
        return None

    def refresh(self, bucket: int, comm: Communicator, *, part: bool) -> None:
        return None

    def sum_tied(self, bucket: int, comm: Communicator) -> None:
        return None

    def open(self, buckets: Sequence[int]) -> None:
        return None

    def free(self, buckets: Sequence[int]) -> None:
        return None

    def add_squares(self, squares: Tensor) -> None:
        return None

    def step(self, squares: Tensor) -> Outcome:
        return Outcome(0.0, True)


def compare_with_torch(
    context: RankContext, spec: dict[str, Any], schedules: list[list[Any]]
) -> dict[str, Any]:
    """Loss and gradients of one step against torch.distributed.pipelining.

    Args:
        schedules: (ours, torch's class name, virtual stages) in turn, on the same ranks.

    Returns:
        Per schedule the largest max|a-b| / max|a| over this rank's tensors, both losses,
        and the most blocks' activations that this rank held.
    """
    wanted = spec_of(spec)
    found: dict[str, Any] = {}
    groups = join(context, wanted)
    for ours, theirs, virtual in schedules:
        one = replace(wanted, schedule=ours, virtual=virtual)
        loss, gradients, most = _our_gradients(one, groups)
        their_loss, expected = _torch_gradients(one, groups, theirs)
        skipped = zero_gradient_parameters(one.config)
        worst = max(
            ((gradients[n] - expected[n]).abs().max() / expected[n].abs().max()).item()
            for n in expected
            if n not in skipped
        )
        assert gradients.keys() == expected.keys()
        found[ours] = {"worst": worst, "loss": loss, "torch_loss": their_loss, "held": most}
    groups.close()
    return found


class CountingStage(TorchStage):
    """Counts the blocks whose activations the stages of a rank hold."""

    everybody: list[CountingStage]
    most: list[int]

    def forward(self, *arguments: Any) -> Tensor:
        output = super().forward(*arguments)
        held = sum(len(stage._kept) + len(stage._waiting) for stage in self.everybody)
        self.most[0] = max(self.most[0], held)
        return output


def _our_gradients(spec: Spec, groups: Groups) -> tuple[float | None, dict[str, Tensor], int]:
    plan = plan_of(spec)
    loss_divisor = spec.microbatches
    shape = (spec.micro, spec.config.sequence, spec.config.hidden)
    stages: list[CountingStage] = []
    named, most = {}, [0]
    for stage in stages_of(plan, groups.rank):
        blocks = gpt.build_blocks(spec.config, *stage.blocks)
        named |= dict(gpt.named_parameters(blocks, stage.blocks[0]))
        place = place_of(plan, stage)
        made = CountingStage(StageSpec(place, blocks, gpt.loss, loss_divisor, torch.empty(shape)))
        made.everybody, made.most = stages, most
        stages.append(made)
    tensors = sum(block.tensors for block in plan.workload.blocks)
    interpreter = Interpreter(program_of(plan), groups, stages, KeepGradients(), tensors)
    result = interpreter.step(0, lambda m: batch_of(spec, 0, 0, m))
    interpreter.close()
    gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
    return result.loss, gradients, most[0]


def _torch_gradients(
    spec: Spec, groups: Groups, schedule: str
) -> tuple[float | None, dict[str, Tensor]]:
    plan = plan_of(spec)
    stages, named = [], {}
    for stage in stages_of(plan, groups.rank):
        blocks = gpt.build_blocks(spec.config, *stage.blocks)
        named |= dict(gpt.named_parameters(blocks, stage.blocks[0]))
        stages.append(
            PipelineStage(
                torch.nn.Sequential(*blocks),
                stage.stage,
                len(plan.stages),
                torch.device("cpu"),
                group=torch.distributed.group.WORLD,
            )
        )
    several = issubclass(kind := get_schedule_class(schedule), PipelineScheduleMulti)
    runner = kind(stages if several else stages[0], spec.microbatches, gpt.loss)  # type: ignore[arg-type]
    batches = [batch_of(spec, 0, 0, m) for m in range(spec.microbatches)]
    losses: list[Tensor] = []
    tokens = torch.cat([batch.tokens for batch in batches])
    targets = torch.cat([batch.targets for batch in batches])
    first, last = groups.rank == 0, groups.rank == spec.pp - 1
    runner.step(
        *((tokens,) if first else ()),
        target=targets if last else None,
        losses=losses if last else None,
    )
    mean = sum(loss.item() for loss in losses) / len(losses) if losses else None
    return mean, {name: p.grad for name, p in named.items() if p.grad is not None}


def train_tensor(context: RankContext, spec: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train on tensor ranks; files hold this rank's copies and its shards, with their places."""
    wanted = spec_of(spec)
    groups = join(context, wanted)
    engine = build(wanted, groups)
    replica = replica_of(wanted, context.rank)
    found = run_steps(engine, wanted, replica, range(wanted.steps))
    engine.interpreter.gather_parameters()
    save_parameters(engine, Path(folder) / f"{context.rank}.safetensors")
    places = save_shards(engine, Path(folder), context.rank)
    evaluated = engine.interpreter.evaluate(lambda m: batch_of(wanted, 999, replica, m), 2)
    again = run_steps(engine, wanted, replica, range(wanted.steps, wanted.steps + 1))
    engine.interpreter.close()
    groups.close()
    return {**found, "evaluated": evaluated, "places": places, "again": again["losses"]}


def inner_spans(context: RankContext, spec: dict[str, Any]) -> dict[str, Any]:
    """The spans of a step, and those of parts of its instructions."""
    wanted = spec_of(spec)
    groups = join(context, wanted)
    engine = build(wanted, groups)
    replica = replica_of(wanted, context.rank)
    result = engine.interpreter.step(0, lambda m: batch_of(wanted, 0, replica, m))
    engine.interpreter.close()
    groups.close()
    return {
        "spans": [asdict(span) for span in result.spans],
        "inner": [asdict(span) for span in result.inner],
    }


def save_shards(engine: Engine[ShardedAdamW], folder: Path, rank: int) -> dict[str, Any]:
    """Save what a rank contributes to a checkpoint; its places in the whole tensors, by name."""
    shards = engine.optimizer.named_shards()
    tensors = {name: shard.tensor.clone().reshape(-1) for name, shard in shards.items()}
    save_file(tensors, folder / f"shards-{rank}.safetensors")
    return {n: [s.global_shape, s.start, s.stop, s.box] for n, s in shards.items()}
