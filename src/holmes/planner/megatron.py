"""A plan as Megatron-LM and torchrun arguments with a host file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holmes.errors import ConfigError, WriteError
from holmes.hardware.topology import Topology
from holmes.plan.plan import Plan

SHARDING = {"none": (), "optimizer": ("--use-distributed-optimizer",)}
PORT = 29500


def export(plan: Plan, folder: Path, sizes: dict[str, int]) -> list[str]:
    """Write ``megatron.args``, ``hostfile``, ``run.sh`` and ``notes.txt``.

    Args:
        sizes: ``layers``, ``hidden``, ``heads``, ``sequence``, ``ffn`` and ``vocabulary``;
            ``top_k`` experts that a token takes, where there are any.

    Returns:
        The paths written.

    Raises:
        ConfigError: nodes with different device counts, which torchrun cannot start.
        WriteError: a file cannot be written.
    """
    files = {
        "megatron.args": "\n".join(arguments(plan, sizes)) + "\n",
        "hostfile": "\n".join(hosts(plan)) + "\n",
        "run.sh": script(plan),
        "notes.txt": "\n".join(notes(plan)) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise WriteError(f"cannot write: {error.strerror}", where=str(folder)) from None
    return [str(folder / name) for name in files]


def arguments(plan: Plan, sizes: dict[str, int]) -> list[str]:
    """Megatron-LM's arguments, one a line (names of its core, 2024).

    Raises:
        ConfigError: stages differ in their degrees.
    """
    layout, schedule = plan.layout, plan.schedule
    if layout is None:
        raise ConfigError(
            "Megatron-LM has no arguments for stages that differ in their degrees",
            where=f"plan {plan.name}",
            next_step="give one parallel.tensor and parallel.data for all stages, and plan again",
        )
    found = [
        f"--tensor-model-parallel-size {layout.tp}",
        f"--pipeline-model-parallel-size {layout.pp}",
        f"--num-layers {sizes['layers']}",
        f"--hidden-size {sizes['hidden']}",
        f"--ffn-hidden-size {sizes['ffn']}",
        f"--num-attention-heads {sizes['heads']}",
        f"--seq-length {sizes['sequence']}",
        f"--max-position-embeddings {sizes['sequence']}",
        f"--micro-batch-size {plan.batch.micro}",
        f"--global-batch-size {plan.batch.global_}",
    ]
    if layout.cp > 1:
        found.append(f"--context-parallel-size {layout.cp}")
        found += ["--cp-comm-type a2a"] if plan.context_algorithm == "ulysses" else []
    if plan.workload.experts:
        found += [
            f"--num-experts {plan.workload.experts}",
            f"--moe-router-topk {sizes['top_k']}",
            f"--expert-model-parallel-size {layout.ep}",
            "--moe-token-dispatcher-type alltoall",
        ]
    if plan.sequence_parallel or _experts_need_sequence(plan):
        found.append("--sequence-parallel")
    if schedule.virtual_stages > 1:
        count = sizes["layers"] // (layout.pp * schedule.virtual_stages)
        found.append(f"--num-layers-per-virtual-pipeline-stage {max(1, count)}")
    if plan.recompute != "none":
        found.append(f"--recompute-granularity {plan.recompute}")
    if plan.recompute == "full":
        found += ["--recompute-method uniform", "--recompute-num-layers 1"]
    found += SHARDING.get(plan.sharding, ())
    if plan.overlap and layout.dp > 1:
        found += ["--overlap-grad-reduce", "--overlap-param-gather"]
    counts = _layers(plan)
    if schedule.virtual_stages == 1 and layout.pp > 1 and len(set(counts)) > 1:
        middle = set(counts[1:-1])
        if len(middle) <= 1:
            found += [
                f"--decoder-first-pipeline-num-layers {counts[0]}",
                f"--decoder-last-pipeline-num-layers {counts[-1]}",
            ]
    return found


def hosts(plan: Plan) -> list[str]:
    """The nodes in rank order, with their devices.

    Raises:
        ConfigError: when a node's ranks do not follow one another.
    """
    devices = Topology(plan.site).devices
    found: list[tuple[str, int]] = []
    for device in plan.rank_map:
        name = devices[device].node.name
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1] + 1)
        elif any(name == known for known, _ in found):
            raise ConfigError(
                f"node {name} has ranks that do not follow one another",
                where="rank_map",
                why="torchrun numbers the ranks of a node in one run",
                next_step="plan with parallel.order=cluster",
            )
        else:
            found.append((name, 1))
    if len({count for _, count in found}) > 1:
        raise ConfigError(
            "nodes have different numbers of devices",
            where="site.clusters",
            why="torchrun starts as many processes on each node",
            next_step="use `holmes train`, or plan for nodes that are alike",
        )
    return [f"{name} slots={count}" for name, count in found]


def script(plan: Plan) -> str:
    """``run.sh``: started on every node with its line number of the host file, from 0."""
    lines = hosts(plan)
    first, slots = lines[0].split(" slots=")
    return f"""#!/usr/bin/env bash
# Start on every node: run.sh NODE_RANK, its line in hostfile from 0.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
torchrun --nnodes {len(lines)} --nproc-per-node {slots} --node-rank "$1" \\
  --master-addr {first} --master-port {PORT} \\
  pretrain_gpt.py $(cat "$here/megatron.args") "${{@:2}}"
"""


def notes(plan: Plan) -> list[str]:
    """What Megatron-LM's arguments cannot say of this plan."""
    found = ["What these arguments cannot say of the plan:"]
    order = [str(group.transport.name) for group in plan.groups if group.axis == "data"]
    if len(set(order)) > 1 or plan.transport == "per-group":
        found.append("- a network per group: set NCCL options per process group, or one for all")
    counts = _layers(plan)
    if len(set(counts[1:-1])) > 1:
        found.append(f"- blocks per stage {'/'.join(map(str, counts))}")
    if plan.schedule.name not in ("1f1b", "interleaved"):
        found.append(f"- the schedule {plan.schedule.name}")
    if plan.sharding not in SHARDING:
        found.append(f"- sharding {plan.sharding}")
    if _experts_need_sequence(plan):
        found.append(
            "- tensor ranks that hold all tokens: Megatron-LM trains experts over them only with "
            "--sequence-parallel, written here; it takes less memory than planned"
        )
    if any(plan.schedule.extra_warmup_per_cut):
        found.append("- extra warm-up forwards across slow cuts")
    return found if len(found) > 1 else ["The arguments say all of the plan."]


def _experts_need_sequence(plan: Plan) -> bool:
    """Whether the plan goes without the sequence parallelism that Megatron-LM demands."""
    tensor = plan.layout is not None and plan.layout.tp > 1
    return bool(plan.workload.experts) and tensor and not plan.sequence_parallel


def _layers(plan: Plan) -> Sequence[int]:
    """Transformer blocks of each stage."""
    return [
        sum(block.kind == "transformer" for block in plan.workload.blocks[slice(*stage.blocks)])
        for stage in plan.stages
    ]
