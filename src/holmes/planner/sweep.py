"""The best plan of a site at several sizes: throughput, efficiency and cost against nodes."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from holmes.errors import ConfigError
from holmes.planner.offers import top
from holmes.planner.request import PlanRequest
from holmes.planner.subsites import scaled, sized

MOST_NODES = 100_000


@dataclass(frozen=True)
class Point:
    """One size of the site.

    Attributes:
        efficiency: tokens per second and device, relative to the first point that fits.
        cost_per_million_tokens: in the unit of the site's prices; None without prices.
        reason: why there is no plan of this size; empty where there is one.
    """

    nodes: int
    devices: int = 0
    step_seconds: float | None = None
    tokens_per_second: float | None = None
    efficiency: float | None = None
    cost_per_million_tokens: float | None = None
    layout: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def sizes(text: str) -> list[int]:
    """The node counts of ``nodes=8..512``: doubling from the first, and the last.

    Raises:
        ConfigError: when it is not such a range.
    """
    match = re.fullmatch(r"nodes=(\d{1,6})\.\.(\d{1,6})", text)
    if match is None:
        raise ConfigError(
            f"{text[:80]!r} is not a sweep",
            where="--sweep",
            why="a sweep is nodes=FIRST..LAST",
            next_step="for example --sweep nodes=8..512",
        )
    first, last = int(match[1]), int(match[2])
    if not 1 <= first <= last <= MOST_NODES:
        raise ConfigError(
            f"the sweep goes from {first} to {last} nodes",
            where="--sweep",
            why=f"it needs 1 <= first <= last <= {MOST_NODES}",
        )
    found = []
    while first < last:
        found.append(first)
        first *= 2
    return [*found, last]


def sweep(request: PlanRequest, nodes: list[int]) -> list[Point]:
    """The best plan without the runtime's limits at each number of nodes."""
    points: list[Point] = []
    first: Point | None = None
    for count in nodes:
        try:
            site = scaled(request.site, count)
            found = sized(replace(request, capabilities=None), site)
        except ConfigError as error:
            if error.where in ("--sweep", "site.clusters"):
                raise
            points.append(Point(count, reason=error.what))
            continue
        point = Point(
            nodes=count,
            devices=found.devices,
            step_seconds=found.seconds,
            tokens_per_second=found.tokens_per_second,
            cost_per_million_tokens=found.dollars_per_million_tokens,
            layout=top(found.search, found.best, 1)[0].name,
        )
        first = first or point
        assert point.tokens_per_second and first.tokens_per_second
        per_device = point.tokens_per_second / point.devices
        efficiency = per_device / (first.tokens_per_second / first.devices)
        points.append(replace(point, efficiency=efficiency))
    return points
