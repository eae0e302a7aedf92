"""Max-min fair rates of flows that share resources: exact progressive filling."""

from __future__ import annotations

import math
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


def fair_rates(
    paths: Sequence[Sequence[int]],
    weights: Sequence[int],
    caps: Sequence[float],
    capacity: Sequence[float],
) -> list[float]:
    """:func:`max_min_rates` over numbered resources, for the event loop.

    Args:
        paths: the resources each flow crosses.
        capacity: bytes per second by resource.
    """
    users: dict[int, list[int]] = {}
    weight: dict[int, int] = {}
    for number, path in enumerate(paths):
        for name in path:
            if name in users:
                users[name].append(number)
                weight[name] += weights[number]
            else:
                users[name] = [number]
                weight[name] = weights[number]
    left = {name: capacity[name] for name in users}
    rates = [0.0] * len(paths)
    rising = dict.fromkeys(range(len(paths)))
    limits = [cap / share for cap, share in zip(caps, weights, strict=True)]
    while rising:
        levels = {name: left[name] / weight[name] for name in left}
        level = min(min(levels.values(), default=math.inf), min(limits[n] for n in rising))
        bound = level * (1.0 + ROUNDING)
        stopping = [n for n in rising if limits[n] <= bound]
        for name, reached in levels.items():
            if reached <= bound:
                stopping += users[name]
        for number in stopping:
            if number in rising:
                del rising[number]
                rate = rates[number] = level * weights[number]
                for name in paths[number]:
                    weight[name] -= weights[number]
                    if weight[name]:
                        left[name] = max(0.0, left[name] - rate)
                    else:
                        del left[name]
    return rates
