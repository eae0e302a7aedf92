"""Run folders made by hand: a plan with plausible values, metrics, and spans of a tiny replay."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from holmes.events.metrics import StepMetrics, append_metrics
from holmes.events.span import Span
from holmes.events.trace import append_trace
from holmes.hardware.site import Fabric, Site
from holmes.plan import Group, Layout, Plan, Predicted, Rejected, ScheduleChoice, Stage, Transport
from holmes.plan.codec import write_plan
from holmes.plan.plan import Batch, SearchSummary
from holmes.plan.program import program_of
from holmes.schedule.instruction import Bucket, Instruction, Op
from holmes.workload.workload import Block, Segment, Workload

GBIT = {Fabric.INFINIBAND: 1.0, Fabric.ROCE: 0.6, Fabric.ETHERNET: 0.2}
MS = 1_000_000


def site(name: str = "demo", clusters: tuple[str, str] = ("ib", "roce"), nodes: int = 2) -> Site:
    def cluster(name: str, kind: str, rate: float) -> dict[str, Any]:
        nics = [{"kind": kind, "gbit_s": rate}, {"kind": "ethernet", "gbit_s": 0.2}]
        device = {"kind": "cpu-core", "count": 1, "memory_gb": 0.25}
        return {"name": name, "nodes": nodes, "device": device, "nics": nics}

    return Site.model_validate(
        {
            "name": name,
            "clusters": [
                cluster(clusters[0], "infiniband", 1.0),
                cluster(clusters[1], "roce", 0.6),
            ],
            "links": [{"between": list(clusters), "kind": "ethernet", "gbit_s": 0.2}],
        }
    )


def workload(name: str = "gpt-5m", layers: int = 8) -> Workload:
    def block(name: str, kind: Any, parameters: int, flops: float) -> Block:
        inner = (Segment("all", flops, 1e6),)
        return Block(name, kind, parameters, 6, inner, {"none": 4e6, "full": 1e6}, 512 * 256 * 4)

    chain = [block("embedding", "embedding", 600_000, 1e6)]
    chain += [block(f"layer {i}", "transformer", 800_000, 1e9) for i in range(layers)]
    chain.append(block("head", "head", 600_000, 8e8))
    return Workload(name, "gpt", 512, 256, 8, 2048, tuple(chain))


def _group(name: str, axis: Any, ranks: tuple[int, ...], fabric: Fabric, sent: int) -> Group:
    prefix = {Fabric.INFINIBAND: "ib0", Fabric.ROCE: "roce0", Fabric.ETHERNET: "eth0"}[fabric]
    interfaces = {f"node-{rank}": (prefix,) for rank in ranks}
    return Group(name, axis, ranks, Transport(fabric), interfaces, sent)


def plan(style: str = "holmes", *, where: Site | None = None, model: str = "gpt-5m") -> Plan:
    """A pp 2, dp 2 plan with its true digest; figures are plausible, not computed."""
    ours = style == "holmes"
    where = where or site()
    work = workload(model)
    cut = 6 if ours else 5
    stages = (_stage(work, 0, (0, cut), (0, 1)), _stage(work, 1, (cut, len(work.blocks)), (2, 3)))
    fast = (Fabric.INFINIBAND, Fabric.ROCE) if ours else (Fabric.ETHERNET, Fabric.ETHERNET)
    reduced = [4 * 2 * sum(b.elements for b in stage.buckets) for stage in stages]
    boundary = 2 * 8 * 512 * 256 * 4
    groups = (
        _group("data.s0", "data", (0, 1), fast[0], reduced[0]),
        _group("data.s1", "data", (2, 3), fast[1], reduced[1]),
        _group("pipeline.0-2", "pipeline", (0, 2), Fabric.ETHERNET, boundary),
        _group("pipeline.1-3", "pipeline", (1, 3), Fabric.ETHERNET, boundary),
        _group("world", "world", (0, 1, 2, 3), Fabric.ETHERNET, 3840),
    )
    sent: dict[str, int] = {}
    for group in groups:
        kind = group.transport.name
        sent[kind] = sent.get(kind, 0) + group.bytes_per_step
    step = 0.55 if ours else 1.31
    draft = Plan(
        name=style,
        site=where,
        workload=work,
        batch=Batch(global_=16, micro=1),
        layout=Layout(pp=2, dp=2),
        sharding="optimizer",
        recompute="none",
        rank_map=(0, 1, 2, 3),
        stages=stages,
        groups=groups,
        schedule=ScheduleChoice("1f1b", 8, 1, 1 if ours else 0, "", (1,) if ours else ()),
        order="cluster" if ours else "launch",
        transport="per-group" if ours else "common",
        partition="exact" if ours else "even",
        overlap=ours,
        predicted=Predicted(
            step,
            step * 0.92,
            step * 1.08,
            0.02,
            16 / step,
            {0: 96_000_000, 1: 96_000_000, 2: 81_500_000, 3: 81_500_000},
            sent,
            0.17,
        ),
        search=SearchSummary(24, 9, 15, 11, 0.21),
        rejected=(Rejected("pipeline 4, data 1", "its bubble is larger", 0.71),),
        explain=(
            "Rank order keeps data groups inside one cluster: data.s0 in ib, data.s1 in roce.",
            "data.s0 uses InfiniBand, the fastest network that ranks 0 and 1 share.",
            "Stage 0 holds 6 blocks and stage 1 holds 4: the head costs most of a layer.",
            "One extra warm-up forward hides the transfer over Ethernet (21 ms against 33 ms).",
        ),
        placement_name=style,
    )
    digest = program_of(draft, check=False).digest
    return replace(draft, schedule=replace(draft.schedule, digest=digest))


def _stage(work: Workload, index: int, blocks: tuple[int, int], ranks: tuple[int, int]) -> Stage:
    buckets = []
    for number, start in enumerate(range(blocks[0], blocks[1], 2)):
        covered = (start, min(start + 2, blocks[1]))
        size = sum(work.blocks[b].parameters for b in range(*covered))
        buckets.append(Bucket(number, covered, size))
    cluster = ("ib", "roce")[index]
    return Stage(index, blocks, Layout(dp=2), ranks, cluster, tuple(buckets))


def replay(a_plan: Plan, *, step: int = 0, noise: float = 0.0, origin: int = 0) -> list[Span]:
    """Spans of one step: lanes in list order, transfers when both ends are ready."""
    dice = random.Random(step + 1)
    lists = program_of(a_plan).ranks
    queues: dict[tuple[int, str], list[Instruction]] = {}
    for rank, instructions in enumerate(lists):
        for ins in instructions:
            queues.setdefault((rank, ins.lane), []).append(ins)
    free = dict.fromkeys(queues, 0)
    done: dict[int, int] = {}
    spans: list[Span] = []
    while any(queues.values()):
        ready: dict[str, list[tuple[int, Instruction, int]]] = {}
        for (rank, lane), queue in queues.items():
            if queue and all(wait in done for wait in queue[0].waits):
                start = max([free[rank, lane], *(done[w] for w in queue[0].waits)])
                key = f"{rank}" if lane == "compute" else lane
                ready.setdefault(key, []).append((rank, queue[0], start))
        moved = False
        for key, members in ready.items():
            group = a_plan.group_by_name.get(members[0][1].group or "")
            if key.startswith("comm:") and (group is None or len(members) < len(group.ranks)):
                continue
            begin = max(start for _, _, start in members)
            took = _nanoseconds(a_plan, members[0][1], group) * (1 + noise * dice.random())
            for rank, ins, start in members:
                stop = begin + int(took)
                spans.append(_span(ins, rank, step, start + origin, stop + origin))
                free[rank, ins.lane] = done[ins.id] = stop
                queues[rank, ins.lane].pop(0)
            moved = True
        assert moved, "the replay is stuck"
    return spans


def _span(ins: Instruction, rank: int, step: int, start: int, stop: int) -> Span:
    op = ins.op.value
    return Span(
        ins.id,
        rank,
        step,
        ins.lane,
        op,
        ins.stage,
        ins.microbatch,
        start,
        stop,
        ins.bytes,
        ins.buffer,
    )


def _nanoseconds(a_plan: Plan, ins: Instruction, group: Group | None) -> float:
    if group is not None and group.transport.fabric is not None:
        share = 0.5 if ins.op in (Op.REDUCE_SCATTER, Op.ALL_GATHER) else 1.0
        return ins.bytes * share * 8 / (GBIT[group.transport.fabric] * 0.95) + 1.0 * MS
    if ins.op is Op.STEP:
        return 4.0 * MS
    blocks = a_plan.workload.blocks[ins.blocks[0] : ins.blocks[1]]
    forward = sum(block.flops_forward for block in blocks) * 2.2e-3
    return forward * (2 if ins.op is Op.BACKWARD else 1)


def run_folder(
    folder: Path, a_plan: Plan, *, steps: int = 20, devices: str = "real", job: str | None = None
) -> dict[str, Any]:
    """Write a full run folder and return its rehearse object."""
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(job or f"name: {folder.name}\nmodel: {{preset: gpt-5m}}\n")
    write_plan(a_plan, folder / "plan.json")
    predicted = replay(a_plan)
    append_trace(folder / "predicted.jsonl", predicted)
    clock, times = 10**12, []
    for step in range(1, steps + 1):
        noise = 0.35 if step <= 2 else 0.12
        spans = replay(a_plan, step=step, noise=noise, origin=clock)
        clock = max(span.stop for span in spans) + 2 * MS
        if step >= steps - 3:
            append_trace(folder / "trace.jsonl", spans)
        times.append((max(s.stop for s in spans) - min(s.start for s in spans)) / 1e9)
    losses = [7.6 - 3.1 * (1 - math.exp(-step / 6)) for step in range(steps)]
    if devices == "real":
        kept: list[float | None] = list(losses)
    else:
        kept = [None] * steps
    append_metrics(
        folder / "metrics.jsonl",
        [
            StepMetrics(i + 1, kept[i], times[i], 8192 / times[i], 1.0, 3e-4, {"ethernet": 1000})
            for i in range(steps)
        ],
    )
    ordered = sorted(times[3:])
    middle = ordered[len(ordered) // 2]
    summary = {
        "run": folder.name,
        "placement": a_plan.placement_name,
        "steps": steps,
        "step_seconds": {
            "median": middle,
            "q1": ordered[len(ordered) // 4],
            "q3": ordered[3 * len(ordered) // 4],
        },
        "predicted_step_seconds": max(span.stop for span in predicted) / 1e9,
        "tokens_per_second": 8192 / middle,
        "loss": {"first": losses[0], "last": losses[-1], "validation": losses[-1] + 0.13}
        if devices == "real"
        else None,
        "bytes_per_step": {
            kind: {"measured": int(sent * 1.021), "predicted": sent}
            for kind, sent in a_plan.predicted.bytes_per_step.items()
        },
        "devices": devices,
        "links": "shaped",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return summary
