"""Link coefficients from the trace of a run: by fabric, how much longer its traffic took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median

from holmes.cost.calibration import Calibration, LinkCalibration
from holmes.cost.model import CostModel
from holmes.cost.software import fabric_of
from holmes.events.order import matches
from holmes.events.span import Span
from holmes.plan.plan import Plan
from holmes.plan.program import program_of
from holmes.simulate.events import simulate
from holmes.simulate.meetings import program_ranks

Ids = tuple[int, ...]


def with_traced_links(plan: Plan, cost: CostModel, spans: Sequence[Span]) -> Calibration:
    """The calibration of ``cost`` with its links as slow as the run's traffic, by fabric.

    An operation takes as long as the member that came last was in it; the event engine says
    what that should have been, with what shares a card or link. The median over operations of
    their ratio stretches rates and latencies alike. A run over gloo keeps its links: it timed
    them before it began, at rates that its plan does not hold.
    """
    calibration = cost.calibration
    if calibration.collectives == "direct":
        return calibration
    fabrics = {
        match.members: fabric.value
        for match in matches(program_of(plan), program_ranks(plan))
        if (fabric := fabric_of(plan, match.first.group)) is not None
    }
    predicted = {
        ids: took for (_, ids), took in _shortest(simulate(plan, cost).spans, fabrics).items()
    }
    ratios: dict[str, list[float]] = defaultdict(list)
    for (_, ids), took in _shortest(spans, fabrics).items():
        if took > 0 and predicted.get(ids, 0) > 0:
            ratios[fabrics[ids]].append(took / predicted[ids])
    network = dict(calibration.network)
    for name, found in ratios.items():
        network[name] = _stretched(network[name], median(found))
    return replace(calibration, network=network)


def _shortest(spans: Iterable[Span], operations: Iterable[Ids]) -> dict[tuple[int, Ids], int]:
    """By step and operation, nanoseconds from the last member's start to its end; operations
    that a step has not seen whole are left out."""
    of = {member: ids for ids in operations for member in ids}
    found: dict[tuple[int, Ids], list[int]] = defaultdict(list)
    for span in spans:
        if span.id in of:
            found[span.step, of[span.id]].append(span.stop - span.start)
    return {key: min(took) for key, took in found.items() if len(took) == len(key[1])}


def _stretched(link: LinkCalibration, ratio: float) -> LinkCalibration:
    """A link on which everything takes ``ratio`` times as long; none beats its line."""
    connection = link.connection_bytes_s
    return replace(
        link,
        efficiency=min(1.0, link.efficiency / ratio),
        latency_seconds=link.latency_seconds * ratio,
        step_seconds=link.step_seconds * ratio,
        seconds_per_byte=link.seconds_per_byte * ratio,
        connection_bytes_s=None if connection is None else connection / ratio,
    )
