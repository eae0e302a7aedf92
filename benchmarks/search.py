"""How fast the planner searches: layouts per CPU-second, and wall time of whole commands.

python benchmarks/search.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
from holmes.hardware.site import Site
from holmes.job.resolve import resolve_job
from holmes.planner.request import PlanRequest
from holmes.planner.search import Search
from holmes.train.planning import request_of

REPEATS = 5
SINGLE = """
name: single
clusters:
  - name: a
    nodes: {nodes}
    device: {{kind: a100-80g-sxm, count: 8}}
    nics: [{{kind: infiniband, gbit_s: 200, count: 8}}]
"""
HYBRID = """
name: hybrid
clusters:
  - name: ib
    nodes: {nodes}
    device: {{kind: a100-80g-sxm, count: 8}}
    nics: [{{kind: infiniband, gbit_s: 200, count: 4}}, {{kind: ethernet, gbit_s: 25}}]
  - name: roce
    nodes: {nodes}
    device: {{kind: a100-80g-sxm, count: 8}}
    nics: [{{kind: roce, gbit_s: 200, count: 2}}, {{kind: ethernet, gbit_s: 25}}]
links:
  - {{between: [ib, roce], kind: ethernet, gbit_s: 25, latency_us: 50}}
"""
PUBLISHED = {
    "calculon_configurations_per_cpu_second": 200,
    "note": "about 200 as shipped, about 1,500 with debug logging off; not run here",
}


def request(site: Path, model: str, batch: int) -> PlanRequest:
    """The question without the runtime's limits."""
    job = resolve_job(None, [], {"site": str(site), "model": model, "global_batch": batch})
    assert isinstance(job.site, Site)
    return replace(request_of(job, capabilities=None), largest_lists=0)


def survey(asked: PlanRequest) -> dict[str, Any]:
    """CPU-seconds to score the full space, time and memory both, nothing kept from before."""
    seconds, counts = [], None
    for _ in range(REPEATS):
        started = time.process_time()
        search = Search(asked, exhaustive=True)
        search.survey()
        seconds.append(time.process_time() - started)
        counts = search.field.counts
    assert counts is not None
    cpu = record.spread(seconds)
    return {
        "enumerated": counts.enumerated,
        "pruned": counts.pruned,
        "evaluated": counts.evaluated,
        "feasible": counts.feasible,
        "cpu_seconds": cpu,
        "layouts_per_cpu_second": round(counts.evaluated / cpu["median"]),
    }


def whole(asked: PlanRequest) -> dict[str, Any]:
    """CPU-seconds of a whole search, exact prices and refinement included."""
    started = time.process_time()
    search = Search(asked)
    best = search.winner()
    plan = search.finished(best)
    return {
        "cpu_seconds": time.process_time() - started,
        "step_seconds": best.seconds,
        "gap": search.gap,
        "evaluated": plan.search.evaluated,
        "plan": str(best.draft),
    }


def command(site: Path, model: str, batch: int, repeats: int) -> dict[str, float]:
    """Wall seconds of `holmes plan --json`, start-up included, with compiled modules at hand
    as an installed package has them."""
    words = [sys.executable, "-m", "holmes", "plan", "--site", str(site), "--model", model]
    words += ["--global-batch", str(batch), "--json"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(site.parent / "compiled")
    subprocess.run(words, check=True, capture_output=True, env=environment)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True, env=environment)
        seconds.append(time.perf_counter() - started)
    return record.spread(seconds)


def measure() -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        sites = {}
        for name, text, nodes in (
            ("a100_512", SINGLE, 64),
            ("hybrid_96", HYBRID, 6),
            ("hybrid_8192", HYBRID, 512),
        ):
            sites[name] = Path(folder) / f"{name}.yaml"
            sites[name].write_text(text.format(nodes=nodes))
        gpt3 = request(sites["a100_512"], "gpt-175b", 1536)
        return {
            "gpt3_512_a100": {"survey": survey(gpt3), "search": whole(gpt3)},
            "hybrid_96_wall_seconds": command(sites["hybrid_96"], "gpt-39b", 1536, REPEATS),
            "hybrid_8192_wall_seconds": command(sites["hybrid_8192"], "gpt-175b", 8192, 1),
            "published": PUBLISHED,
        }


if __name__ == "__main__":
    record.write("search", record.with_drift(measure))
