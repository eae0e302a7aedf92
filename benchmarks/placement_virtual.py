"""Which part of Holmes gains what, on virtual devices in one paper-shaped setting.

Two stages, two replicas, forward to backward 1 : 2; RoCE holds the last stage. The rates
are solved with the simulator so that, without overlap, homogeneous InfiniBand, RoCE and
Ethernet sites reach 1 : 0.81 : 0.62 in throughput (Holmes, four nodes), with the gradient
exchange 5 % of the InfiniBand step. Arms alternate within one session.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import record
from holmes.cost.model import CostModel
from holmes.hardware.topology import Topology
from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.plan.plan import Plan
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES
from holmes.simulate.bound import lower_bound_seconds
from holmes.train.planning import request_of, virtual_calibration
from holmes.train.rehearsal import Progress, Rehearsal

EXCHANGE_SHARE = 0.05
THROUGHPUT = {"roce": 0.81, "ethernet": 0.62}
STEPS = 8
LIKE_MEGATRON = "order: launch, transport: common, partition: even, overlap: false, extra_warmup: 0"
ARMS = {
    "megatron": LIKE_MEGATRON,
    "+ per-group transport": LIKE_MEGATRON.replace("common", "per-group"),
    "+ partition": LIKE_MEGATRON.replace("common", "per-group").replace("even", "exact"),
    "+ extra warm-up": "order: cluster, transport: per-group, partition: exact, overlap: false",
    "+ overlap = holmes": "order: cluster, transport: per-group, partition: exact, overlap: true",
    "megatron with overlap": LIKE_MEGATRON.replace("overlap: false", "overlap: true"),
}


def site(rates: dict[str, float], kinds: tuple[str, str]) -> str:
    """Two clusters of two hosts, each with a fast card of its kind and Ethernet."""
    clusters = []
    for i, kind in enumerate(kinds):
        fast = f"{{kind: {kind}, gbit_s: {rates[kind]}}}, " if kind != "ethernet" else ""
        ethernet = f"{{kind: ethernet, gbit_s: {rates['ethernet']}}}"
        clusters.append(
            f"{{name: c{i}, nodes: 2, device: {{kind: cpu-core}}, nics: [{fast}{ethernet}]}}"
        )
    link = f"{{between: [c0, c1], kind: ethernet, gbit_s: {2 * rates['ethernet']}}}"
    return (
        f"{{name: paper-shaped, clusters: [{', '.join(clusters)}], links: [{link}], "
        "rehearsal: {scale: 1}}"
    )


def one_cluster(rates: dict[str, float], kind: str) -> str:
    """Four hosts on one fabric."""
    fast = f"{{kind: {kind}, gbit_s: {rates[kind]}}}"
    extra = f", {{kind: ethernet, gbit_s: {rates['ethernet']}}}" if kind != "ethernet" else ""
    return (
        "{name: paper-shaped, clusters: [{name: c0, nodes: 4, device: {kind: cpu-core}, "
        f"nics: [{fast}{extra}]}}], rehearsal: {{scale: 1}}}}"
    )


def job(site_text: str, parallel: str, microbatches: int) -> ResolvedJob:
    """The job of one arm."""
    return resolve_job(
        None,
        [
            f"site={site_text}",
            "model={preset: gpt-5m, sequence: 85, vocabulary: 2048, tied: false}",
            f"batch={{global: {2 * microbatches}, micro: 1}}",
            f"parallel={{pipeline: 2, data: 2, schedule: 1f1b, {parallel}}}",
            "rehearsal={devices: virtual, forward_ms: 10, backward_ms: 20}",
            "train={trace_steps: 0, evaluate_batches: 0}",
        ],
        {},
    )


def planned(resolved: ResolvedJob) -> Plan:
    """The plan of a job at its site's rates."""
    topology = Topology(resolved.site)
    rates = {(n.index, c.kind): c.total_gbit_s for n in topology.nodes for c in n.group.nics}
    links = {i: link.gbit_s for i, link in enumerate(resolved.site.links)}
    return make_plan(
        request_of(
            resolved,
            capabilities=CAPABILITIES,
            calibration=virtual_calibration(resolved, 1),
            rates={**rates, **links},
        )
    )


def solve(target: Callable[[float], float], low: float, high: float) -> float:
    """The rate at which a falling function crosses zero."""
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if target(middle) > 0 else (low, middle)
    return round(high, 4)


def solve_rates(microbatches: int) -> dict[str, float]:
    """Rates of the three kinds, Gbit/s."""

    def alone(rate: float) -> Plan:
        text = one_cluster({"ethernet": rate}, "ethernet")
        return planned(job(text, LIKE_MEGATRON, microbatches))

    def exchange(rate: float) -> float:
        plan = alone(rate)
        data = next(g for g in plan.groups if g.axis == "data")
        seconds = data.bytes_per_step / 2 * 8 / (rate * 1e9)
        return seconds / plan.predicted.step_seconds - EXCHANGE_SHARE

    fast = solve(exchange, 0.1, 4.0)
    best = alone(fast).predicted.step_seconds
    rates = {"infiniband": fast}
    for kind, throughput in THROUGHPUT.items():
        rates[kind] = solve(
            lambda r, t=throughput: alone(r).predicted.step_seconds - best / t, 0.01, fast
        )
    return rates


def measure(
    site_text: str, arms: dict[str, str], microbatches: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Run every arm ``rounds`` times, alternating; medians of each run and the prediction."""
    quiet = Progress(lambda line: None, lambda name, steps: lambda rank, report: None)
    jobs = {name: job(site_text, parallel, microbatches) for name, parallel in arms.items()}
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in arms}
    with tempfile.TemporaryDirectory() as folder:
        first = next(iter(jobs.values()))
        with Rehearsal(first, Path(folder) / "logs", quiet) as rehearsal:
            rehearsal.calibrate(1)
            plans = {name: rehearsal.plan(each) for name, each in jobs.items()}
            cost = CostModel(
                rehearsal.session.topology,
                next(iter(plans.values())).workload,
                rehearsal.calibration,  # type: ignore[arg-type]
                rehearsal.session.rates,
            )
            for turn in range(rounds):
                for name, each in jobs.items():
                    run = Path(folder) / f"run-{turn}-{list(jobs).index(name)}"
                    result = rehearsal.run(each, plans[name], run, steps=STEPS, save=False)
                    seconds = result["step_seconds"]["median"]
                    found[name]["seconds"].append(seconds)
                    found[name]["links"] = result["links"]
                    print(f"{microbatches:3d} {name:24s} {seconds * 1e3:7.0f} ms", flush=True)
    for name, plan in plans.items():
        found[name]["predicted"] = plan.predicted.step_seconds
        found[name]["bound"] = lower_bound_seconds(plan, cost)
        found[name]["blocks"] = [list(stage.blocks) for stage in plan.stages]
        found[name] |= record.spread(found[name]["seconds"])
    return found


def ratios(arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every arm's gain over megatron, and the like-for-like gains."""
    base = arms["megatron"]["seconds"]
    found = {name: record.paired_ratio(base, arm["seconds"]) for name, arm in arms.items()}
    both = arms["megatron with overlap"]["seconds"], arms["+ overlap = holmes"]["seconds"]
    found["holmes, both with overlap"] = record.paired_ratio(*both)
    return found


def main() -> None:
    """Run the ablation, the easy and the losing case, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    rates = solve_rates(8)
    hybrid = site(rates, ("infiniband", "roce"))
    two = {name: ARMS[name] for name in ("megatron", "+ overlap = holmes")}
    overlap = ARMS["+ overlap = holmes"]

    def body() -> dict[str, Any]:
        arms = measure(hybrid, ARMS, 8, rounds)
        ib = measure(one_cluster(rates, "infiniband"), {"homogeneous": overlap}, 8, rounds)
        other = {str(m): measure(hybrid, two, m, max(1, rounds - 1)) for m in (4, 16)}
        alone = ib["homogeneous"]
        holmes = arms["+ overlap = holmes"]
        return {
            "rates_gbit_s": rates,
            "arms": arms,
            "gains": ratios(arms),
            "homogeneous_infiniband": alone,
            "share_of_infiniband": median(alone["seconds"]) / median(holmes["seconds"]),
            "microbatches": other,
            "sizes": "pp 2, dp 2, 8 micro-batches, 10 and 20 ms a block, 5.8 M parameters",
        }

    record.write("placement_virtual", record.with_drift(body))


if __name__ == "__main__":
    main()
