"""A small plan on four hosts, and runs of it that were never run: records made by rule."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from holmes.diagnose.records import Places, Records, order_of_plan
from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.plan.plan import Plan
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES
from holmes.runtime.monitor.flight import FlightStep
from holmes.runtime.monitor.meter import Arrival
from holmes.schedule.instruction import COMPUTE_OPS
from holmes.train.planning import request_of, virtual_calibration

FLAT = (
    "{name: flat, clusters: [{name: a, nodes: 4, device: {kind: cpu-core, count: 1}, "
    "nics: [{kind: ethernet, gbit_s: 0.4}]}], rehearsal: {scale: 1}}"
)
LANE = "comm:data.s0"
PART = 100_000
MS = 1_000_000


def job(*more: str) -> ResolvedJob:
    """Four replicas on four hosts of one Ethernet, with virtual devices."""
    return resolve_job(
        None,
        [
            f"site={FLAT}",
            "model={preset: gpt-1m, layers: 2, hidden: 192, sequence: 32, vocabulary: 512}",
            "batch={global: 8, micro: 1}",
            "parallel={pipeline: 1, data: 4}",
            "train={steps: 24, evaluate_batches: 0, trace_steps: 0}",
            "rehearsal={devices: virtual, forward_ms: 3, backward_ms: 6}",
            *more,
        ],
        {},
    )


@cache
def plan() -> Plan:
    resolved = job()
    return make_plan(
        request_of(
            resolved, capabilities=CAPABILITIES, calibration=virtual_calibration(resolved, 1)
        )
    )


ComputeFactor = Callable[[int, int], float]
"""(step, rank) -> how many times as long it computes."""
WireFactor = Callable[[int, int, int], float]
"""(step, source, target) -> how many times as long a part takes."""


def records(
    *,
    compute: ComputeFactor = lambda step, rank: 1.0,
    wire: WireFactor = lambda step, source, target: 1.0,
    steps: int = 40,
    noise: float = 0.1,
) -> Records:
    """Steps in which each computation takes 2 ms and each part of an exchange 10 ms, times the
    factors, with noise, from when both ends are ready."""
    order = order_of_plan(plan())
    draw = random.Random(7)
    by_rank: dict[int, dict[int, FlightStep]] = {rank: {} for rank in range(4)}
    for step in range(steps):
        ready = {}
        spans: dict[int, dict[int, tuple[int, int]]] = {rank: {} for rank in range(4)}
        for rank in range(4):
            now = step * 1000 * MS
            for id_, ins in order.instructions.items():
                if order.rank_of[id_] == rank and ins.op in COMPUTE_OPS:
                    lasts = 2 * MS * compute(step, rank) * draw.uniform(1 - noise, 1 + noise)
                    spans[rank][id_] = (now, now + int(lasts))
                    now += int(lasts)
            ready[rank] = now
        for rank in range(4):
            parts = tuple(
                Arrival(
                    peer,
                    ready[rank],
                    max(ready[rank], ready[peer])
                    + int(10 * MS * wire(step, peer, rank) * draw.uniform(1 - noise, 1 + noise)),
                    PART,
                    True,
                )
                for peer in range(4)
                if peer != rank
            )
            by_rank[rank][step] = FlightStep(rank, step, True, spans[rank], {LANE: parts})
    return Records(Places(plan()), order, by_rank, None)
