"""Link coefficients from timed operations on real groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from holmes.cost.calibration import Calibration, LinkCalibration
from holmes.cost.network import Network, Rates
from holmes.hardware.topology import Topology
from holmes.plan.plan import Group, Plan
from holmes.schedule.instruction import Op

INSIDE = "intra-node"
PERFECT = LinkCalibration(1.0, 0.0)
LEAST_EFFICIENCY = 0.5
"""A fit that finds less than half of the line rate has met a disturbance, not a link."""


@dataclass(frozen=True)
class LinkTiming:
    """Seconds of one operation with the network to itself.

    ``op`` is a send for pipeline pairs, else a collective; ``bytes_`` its full payload.
    """

    group: str
    op: Op
    bytes_: int
    seconds: float


def with_measured_links(
    calibration: Calibration,
    plan: Plan,
    topology: Topology,
    rates: Rates | None,
    timings: Sequence[LinkTiming],
) -> Calibration:
    """The calibration with link coefficients fitted to the timings.

    Transports of the lab differ by rate alone, so all between nodes share one set; groups
    inside a node have their own. What was not timed stays as it is.
    """
    ideal = replace(calibration, network=dict.fromkeys(calibration.network, PERFECT))
    network = Network(topology, plan.rank_map, ideal, rates)
    inside = {name for name, group in plan.group_by_name.items() if group.transport.fabric is None}
    links: dict[str, LinkCalibration] = dict(calibration.network)
    for names in ({INSIDE}, set(links) - {INSIDE}):
        mine = [timing for timing in timings if (timing.group in inside) == (INSIDE in names)]
        if mine:
            links |= dict.fromkeys(names, _fitted(network, plan, mine))
    return replace(calibration, network=links)


def _fitted(network: Network, plan: Plan, timings: Sequence[LinkTiming]) -> LinkCalibration:
    """Non-negative least squares of the relative error over the latency of a hop, the time on
    the line beyond that of its rate, and the time per byte beside it.

    The line itself is no free term: where all timings are of one rate, a fit could not tell
    its time from that per byte, and would count it twice.
    """
    rows = [
        np.array(_terms(network, plan.group_by_name[timing.group], timing)) / timing.seconds
        for timing in timings
    ]
    from scipy.optimize import nnls  # only where links are fitted

    terms = np.array(rows)
    (step, beyond, per_byte), _ = nnls(terms, 1.0 - terms[:, 1])
    return LinkCalibration(
        efficiency=float(max(LEAST_EFFICIENCY, 1.0 / (1.0 + beyond))),
        latency_seconds=0.0,
        step_seconds=float(step),
        seconds_per_byte=float(per_byte),
    )


def _terms(network: Network, group: Group, timing: LinkTiming) -> tuple[float, float, float]:
    """What multiplies hop latency, line time and seconds per byte in one timing."""
    members, fabric = len(group.ranks), group.transport.fabric
    if timing.op is Op.SEND:
        first, last = group.ranks
        seconds = network.transfer(first, last, timing.bytes_, fabric).seconds
        return 1.0, seconds, timing.bytes_
    seconds = network.collective(timing.op, group.ranks, timing.bytes_, fabric).seconds
    moved = timing.bytes_ * (members - 1) / members
    if timing.op is Op.ALL_REDUCE:
        return 2.0 * (members - 1), seconds, 2.0 * moved
    return 1.0, seconds, moved
