"""The paper-shaped setting: two stages, two replicas, forward to backward 1 : 2, virtual devices.

RoCE holds the last stage. The rates are solved with the simulator so that, without overlap,
homogeneous InfiniBand, RoCE and Ethernet sites reach 1 : 0.81 : 0.62 in throughput (Holmes,
four nodes), with the gradient exchange 5 % of the InfiniBand step.
"""

from __future__ import annotations

from collections.abc import Callable

import arms
from holmes.hardware.topology import Topology
from holmes.job.resolve import ResolvedJob
from holmes.plan.plan import Plan
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES
from holmes.train.planning import request_of, virtual_calibration

EXCHANGE_SHARE = 0.05
THROUGHPUT = {"infiniband": 1.0, "roce": 0.81, "ethernet": 0.62}
MICROBATCHES = 8
SIZES = "pp 2, dp 2, 10 and 20 ms a block, 5.8 M parameters"
MEGATRON = "order: launch, transport: common, partition: even, overlap: false, extra_warmup: 0"
MEGATRON_OVERLAP = MEGATRON.replace("overlap: false", "overlap: true")
HOLMES = "order: cluster, transport: per-group, partition: exact, overlap: true"
HOLMES_NO_OVERLAP = HOLMES.replace("overlap: true", "overlap: false")


def hybrid_site(
    rates: dict[str, float],
    kinds: tuple[str, str] = ("infiniband", "roce"),
    speeds: tuple[float, float] = (1.0, 1.0),
) -> str:
    """Two clusters of two hosts, each host with a fast card of its cluster's kind and Ethernet."""
    clusters = ", ".join(
        f"{{name: c{index}, nodes: 2, device: {{kind: cpu-core, speed: {speed}}}, "
        f"nics: {_cards(rates, kind)}}}"
        for index, (kind, speed) in enumerate(zip(kinds, speeds, strict=True))
    )
    link = f"{{between: [c0, c1], kind: ethernet, gbit_s: {2 * rates['ethernet']}}}"
    return f"{{name: hybrid, clusters: [{clusters}], links: [{link}], rehearsal: {{scale: 1}}}}"


def one_cluster(rates: dict[str, float], kind: str) -> str:
    """Four hosts on one fabric."""
    cluster = f"{{name: c0, nodes: 4, device: {{kind: cpu-core}}, nics: {_cards(rates, kind)}}}"
    return f"{{name: homogeneous, clusters: [{cluster}], rehearsal: {{scale: 1}}}}"


def _cards(rates: dict[str, float], kind: str) -> str:
    kinds = dict.fromkeys((kind, "ethernet"))
    return "[" + ", ".join(f"{{kind: {k}, gbit_s: {rates[k]}}}" for k in kinds) + "]"


def job(site: str, parallel: str, microbatches: int = MICROBATCHES) -> ResolvedJob:
    """The job of one arm."""
    return arms.settings(
        f"site={site}",
        "model={preset: gpt-5m, sequence: 85, vocabulary: 2048, tied: false}",
        f"batch={{global: {2 * microbatches}, micro: 1}}",
        f"parallel={{pipeline: 2, data: 2, schedule: 1f1b, {parallel}}}",
        "rehearsal={devices: virtual, forward_ms: 10, backward_ms: 20}",
        "train={trace_steps: 0, evaluate_batches: 0}",
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


def solve_rates() -> dict[str, float]:
    """Rates of the three kinds, Gbit/s."""

    def alone(rate: float) -> Plan:
        return planned(job(one_cluster({"ethernet": rate}, "ethernet"), MEGATRON))

    def exchange(rate: float) -> float:
        plan = alone(rate)
        members = plan.layout.dp
        data = next(group for group in plan.groups if group.axis == "data")
        seconds = data.bytes_per_step / members * 8 / (rate * 1e9)
        return seconds / plan.predicted.step_seconds - EXCHANGE_SHARE

    def slower(wanted: float) -> Callable[[float], float]:
        return lambda rate: alone(rate).predicted.step_seconds - wanted

    fast = solve(exchange, 0.1, 4.0)
    best = alone(fast).predicted.step_seconds
    rates = {"infiniband": fast}
    for kind in ("roce", "ethernet"):
        rates[kind] = solve(slower(best / THROUGHPUT[kind]), 0.01, fast)
    return rates
