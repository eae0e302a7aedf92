"""How fast the two simulation engines are: a large pipeline in closed form, events per second.

CPU seconds, medians of repeats in this process. The closed form's baseline is its own
action-by-action twin, on a size that the twin can do; the event rates count ends of
computations, latencies and flows, without and with laying out tables and writing spans.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import record
from holmes.cost.model import CostModel
from holmes.hardware.topology import Topology
from holmes.job.resolve import resolve_job
from holmes.plan.plan import Plan
from holmes.plan.program import program_of
from holmes.planner.search import make_plan
from holmes.schedule import one_f_one_b
from holmes.simulate import (
    PartTimes,
    PipelineTimes,
    StageTimes,
    pipeline_seconds,
    simulate_step,
    wavefront_seconds,
)
from holmes.simulate.events import Engine
from holmes.simulate.tables import tables_of
from holmes.train.planning import request_of

STAGES, MICROBATCHES = 1024, 4096
TWIN = (32, 128)
REPEATS = 5
PLANS = {
    "pipeline 16, data 2": "{pipeline: 16, data: 2, tensor: 1, schedule: 1f1b}",
    "pipeline 4, data 8, shared cards": "{pipeline: 4, data: 8, tensor: 1, schedule: 1f1b}",
}


def cpu_seconds(body: Callable[[], Any], repeats: int = REPEATS) -> list[float]:
    """CPU seconds of several runs, garbage collected in between."""
    found = []
    for _ in range(repeats):
        gc.collect()
        start = time.process_time()
        body()
        found.append(time.process_time() - start)
    return found


def pipeline(stages: int) -> PipelineTimes:
    """Stages of unequal speed and cuts of unequal length, from a fixed seed."""
    rng = np.random.default_rng(7)
    forward = rng.uniform(0.9, 1.1, stages)
    cuts = tuple(float(seconds) for seconds in rng.uniform(0.0, 0.1, stages - 1))
    each = tuple(StageTimes((PartTimes(0.1, float(f), 2 * float(f), 0.1),), 0.1) for f in forward)
    return PipelineTimes(each, cuts, cuts, 0.01)


def closed_form() -> dict[str, Any]:
    """The large step of both schedules, and both engines on the twin's size."""
    figures: dict[str, Any] = {"stages": STAGES, "microbatches": MICROBATCHES}
    times = pipeline(STAGES)
    for name, extra in (("1f1b", 0), ("1f1b", 1), ("gpipe", 0)):
        warmup = (extra,) * (STAGES - 1)
        label = f"{name} with extra warm-up" if extra else name
        figures[label] = record.spread(
            cpu_seconds(
                lambda n=name, w=warmup: wavefront_seconds(  # type: ignore[misc]
                    n, MICROBATCHES, w, times, overlap=True
                )
            )
        )
    p, m = TWIN
    small, schedule = pipeline(p), one_f_one_b(p, m)
    twin = pipeline_seconds(schedule, small, overlap=True)
    assert wavefront_seconds("1f1b", m, (), small, overlap=True) == twin
    slow = cpu_seconds(lambda: pipeline_seconds(schedule, small, overlap=True))
    fast = cpu_seconds(lambda: wavefront_seconds("1f1b", m, (), small, overlap=True))
    figures["twin"] = {
        "stages": p,
        "microbatches": m,
        "twin": record.spread(slow),
        "levels": record.spread(fast),
        "actions_per_second": 2 * p * m / median(slow),
    }
    figures["actions_per_second"] = 2 * STAGES * MICROBATCHES / figures["1f1b"]["median"]
    return figures


def events() -> dict[str, Any]:
    """Events per second on plans whose transfers share cards and links."""
    return {name: _events(parallel) for name, parallel in PLANS.items()}


def _events(parallel: str) -> dict[str, Any]:
    resolved = resolve_job(
        None,
        [
            "site=paper",
            "model=gpt-3.6b",
            "batch={global: 1536, micro: 1}",
            f"parallel={parallel[:-1]}, recompute: full}}",
        ],
        {},
    )
    request = request_of(resolved, capabilities=None)
    plan: Plan = make_plan(request)
    cost = CostModel(Topology(plan.site), plan.workload, request.calibration)
    program = program_of(plan)
    tables = tables_of(plan, cost, program)
    loops, count = [], 0
    for _ in range(REPEATS):
        engine = Engine(tables)
        loops += cpu_seconds(engine.run, 1)
        count = engine.events
    whole = cpu_seconds(lambda: simulate_step(plan, cost, program), 3)
    return {
        "instructions": len(tables.instructions),
        "flows": sum(len(kinds) for kinds in tables.flows),
        "events": count,
        "loop": record.spread(loops),
        "whole": record.spread(whole),
        "events_per_second": count / median(loops),
        "events_per_second_whole": count / median(whole),
    }


def main() -> None:
    """Measure both engines and write the record."""
    figures = record.with_drift(lambda: {"closed_form": closed_form(), "events": events()})
    for name, told in figures["events"].items():
        print(f"{name}: {told['events']} events, {told['events_per_second']:,.0f} a second")
    print(f"1f1b {STAGES} x {MICROBATCHES}: {figures['closed_form']['1f1b']['median']:.2f} s")
    record.write("engines", figures)


if __name__ == "__main__":
    main()
