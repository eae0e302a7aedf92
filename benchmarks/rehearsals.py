"""Predicted against measured step time of rehearsals that a seed draws.

Sites, layouts, schedules, sharding and link rates are drawn; every rehearsal measures its own
blocks and links before its plan is made, and no step. Draws that a plan refuses are drawn again,
so the list is the same on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import arms
import record
from holmes.errors import ConfigError
from holmes.job.resolve import ResolvedJob
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES
from holmes.train.planning import request_of

SEED = 20_24
COUNT = 12
STEPS = 8
LIMIT = 0.10
"""How far a prediction may be off."""
LAYOUTS = ((2, 2, 1), (4, 1, 1), (2, 1, 2), (1, 4, 1), (1, 2, 2), (1, 2, 1), (2, 1, 1))
"""(pipeline, data, tensor)."""
SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero-bubble", "looped-bfs")
MODEL = "{preset: gpt-5m, sequence: 64, vocabulary: 2048, tied: false}"


def drawn(seed: int, count: int) -> dict[str, ResolvedJob]:
    """Jobs by what they are, in the order in which they were drawn."""
    found: dict[str, ResolvedJob] = {}
    for name, words in _draws(random.Random(seed)):
        job = arms.settings(*words)
        try:
            make_plan(request_of(job, capabilities=CAPABILITIES))
        except ConfigError:
            continue
        found.setdefault(name, job)
        if len(found) == count:
            break
    return found


def _draws(source: random.Random) -> Iterator[tuple[str, list[str]]]:
    while True:
        pipeline, data, tensor = source.choice(LAYOUTS)
        hosts = pipeline * data
        clusters = source.choice((1, 2)) if hosts % 2 == 0 else 1
        schedule = source.choice(SCHEDULES) if pipeline > 1 else "gpipe"
        sharding = source.choice(("none", "optimizer")) if data > 1 else "none"
        micro, microbatches = source.choice((1, 2)), source.choice((4, 8))
        recompute = source.choice(("none", "full")) if schedule != "zero-bubble" else "none"
        site = _site(source, clusters, hosts // clusters, tensor)
        keys = f"pipeline: {pipeline}, data: {data}, tensor: {tensor}, schedule: {schedule}"
        if schedule in ("interleaved", "looped-bfs"):
            keys += ", virtual_stages: 2"
        words = [
            f"site={site}",
            f"model={MODEL}",
            f"batch={{global: {micro * microbatches * data}, micro: {micro}}}",
            f"parallel={{{keys}, sharding: {sharding}, recompute: {recompute}}}",
            "train={trace_steps: 0, evaluate_batches: 0}",
            "data={source: shakespeare, vocabulary: 2048}",
        ]
        layout = f"{clusters} x {hosts // clusters} hosts, pp {pipeline}, dp {data}, tp {tensor}"
        how = f"{microbatches} x {micro}, {schedule}, sharding {sharding}, recompute {recompute}"
        yield f"{layout}; {how}", words


def _site(source: random.Random, clusters: int, nodes: int, devices: int) -> str:
    """Clusters of equal hosts, a fast card and Ethernet each, with rates in Gbit/s."""
    slow = round(source.uniform(0.08, 0.2), 2)
    parts = []
    for index in range(clusters):
        fast = round(source.uniform(0.3, 1.0), 2)
        kind = ("infiniband", "roce")[index]
        cards = f"[{{kind: {kind}, gbit_s: {fast}}}, {{kind: ethernet, gbit_s: {slow}}}]"
        device = f"{{kind: cpu-core, count: {devices}}}"
        parts.append(f"{{name: c{index}, nodes: {nodes}, device: {device}, nics: {cards}}}")
    links = f"[{{between: [c0, c1], kind: ethernet, gbit_s: {2 * slow}}}]" if clusters > 1 else "[]"
    text = f"name: drawn, clusters: [{', '.join(parts)}], links: {links}"
    return f"{{{text}, rehearsal: {{scale: 1}}}}"


def figures(rounds: int) -> dict[str, Any]:
    """The record's body."""
    rehearsals: dict[str, Any] = {}
    for name, job in drawn(SEED, COUNT).items():
        print(name)

        def body(job: ResolvedJob = job) -> dict[str, Any]:
            return {"arms": arms.alternate({"planned": job}, rounds=rounds, steps=STEPS)}

        rehearsals[name] = record.with_drift(body)
        arm = rehearsals[name]["arms"]["planned"]
        arm["error"] = arm["predicted"] / arm["median"] - 1
        print(f"predicted {arm['predicted'] * 1e3:.0f} ms, {arm['error']:+.1%}")
    errors = [abs(one["arms"]["planned"]["error"]) for one in rehearsals.values()]
    return {
        "headline": record.headline(
            "absolute error of the predicted step",
            "measured median",
            {**record.spread(errors), "pairs": len(errors)},
        ),
        "sites": rehearsals,
        "worst": max(errors),
        "within_limit": sum(error <= LIMIT for error in errors),
        "compared": len(errors),
        "limit": LIMIT,
        "rates_gbit_s": {},
        "sizes": f"gpt-5m at sequence 64, drawn with seed {SEED}, {STEPS} steps a run",
    }


if __name__ == "__main__":
    record.main("rehearsals", figures, rounds=2)
