"""Max-min fair rates of flows that share resources: exact progressive filling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holmes.cost.network import Flow

ROUNDING = 1e-12


def max_min_rates(flows: Sequence[Flow], capacity: Mapping[str, float]) -> list[float]:
    """Bytes per second of each flow, weighted max-min fair.

    All flows rise together at a rate proportional to their weight; a flow stops
    at its own cap or when a resource on its way is full. The result is the one
    allocation in which no flow can gain but at the cost of a flow that has no
    more per unit of weight (Bertsekas and Gallager, Data Networks, 6.5.2).

    Args:
        flows: each with at least one resource or a finite cap.
        capacity: bytes per second of every resource named by a flow.
    """
    rates = [0.0] * len(flows)
    left: dict[str, float] = {}
    weight: dict[str, int] = {}
    users: dict[str, list[int]] = {}
    for number, flow in enumerate(flows):
        for name in flow.resources:
            left.setdefault(name, capacity[name])
            weight[name] = weight.get(name, 0) + flow.weight
            users.setdefault(name, []).append(number)
    rising = set(range(len(flows)))
    while rising:
        level = min(flows[number].cap / flows[number].weight for number in rising)
        full = min((left[name] / weight[name] for name in left if weight[name]), default=level)
        level = min(level, full)
        bound = level * (1.0 + ROUNDING)
        stopping = {n for n in rising if flows[n].cap / flows[n].weight <= bound}
        for name, room in left.items():
            if weight[name] and room / weight[name] <= bound:
                stopping.update(number for number in users[name] if number in rising)
        for number in stopping:
            flow = flows[number]
            rates[number] = level * flow.weight
            for name in flow.resources:
                left[name] = max(0.0, left[name] - rates[number])
                weight[name] -= flow.weight
        rising -= stopping
    return rates
