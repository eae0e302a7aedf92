"""The engineer's note on a plan: where the time goes, what binds, what to change first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from holmes.cost.model import CostModel
from holmes.hardware.site import Device, NodeGroup, Site
from holmes.hardware.topology import Topology
from holmes.plan.explain import seconds_text
from holmes.planner.breakdown import breakdown
from holmes.planner.draft import Draft, draft
from holmes.planner.estimates import Estimates
from holmes.planner.ground import Ground
from holmes.planner.pricing import Pricing
from holmes.schedule.generate import FORMS

TOLD = 0.005
"""Parts and gains below this fraction of the step are not told."""
LEAST_REST = 0.001
"""What such parts make together is told from this fraction on, so that all adds up."""
FASTER = 2.0
"""Factor by which a network is made faster to see what it binds."""
DEVICE_FASTER = 1.25
CHUNKS = (2, 4, 8)
"""Of tensor collectives, that are tried."""


@dataclass(frozen=True)
class Change:
    """A change of the site or job and what the same layout would then take, seconds."""

    what: str
    seconds: float


def time_lines(draft_: Draft, seconds: float) -> Iterator[str]:
    """Where the seconds go, largest first."""
    parts = breakdown(draft_, seconds).parts()
    told = sorted(
        ((n, v) for n, v in parts.items() if abs(v) >= TOLD * seconds), key=lambda item: -item[1]
    )
    rest = math.fsum(parts.values()) - math.fsum(value for _, value in told)
    if rest >= LEAST_REST * seconds:
        told.append((f"all else, each under {TOLD:.1%},", rest))
    text = ", ".join(f"{n} {seconds_text(value)} ({value / seconds:.0%})" for n, value in told)
    yield f"where the {seconds_text(seconds)} go: {text}"


def change_lines(draft_: Draft, pricing: Pricing) -> Iterator[str]:
    """Which network binds and what to change first, by pricing the changes."""
    now = pricing.quick_seconds(draft_)
    changes = sorted(changes_of(draft_, pricing), key=lambda change: change.seconds)
    networks = [change for change in changes if "network" in change.what]
    if networks and networks[0].seconds < now * (1 - TOLD):
        first = networks[0]
        gain = 1 - first.seconds / now
        yield f"what binds: {first.what} would save {gain:.1%} of the step, more than any other"
    elif networks:
        yield "what binds: compute; no network of twice the rate would save 0.5 % of the step"
    worth = [change for change in changes if change.seconds < now * (1 - TOLD)]
    for place, change in zip(("first", "then", "then"), worth, strict=False):
        gain = now / change.seconds
        yield f"to change {place}: {change.what}: {gain:.2f} times faster, same layout"


def changes_of(draft_: Draft, pricing: Pricing) -> Iterator[Change]:
    """Each network of the site twice as fast, and devices a quarter faster, one at a time; and
    tensor collectives in the best of a few numbers of chunks, where they take turns now."""
    site = draft_.request.site
    for what, other in _sites(site):
        seconds = _repriced(draft_, pricing, other)
        if seconds is not None:
            yield Change(what, seconds)
    late = FORMS[draft_.schedule].splits_backward
    if draft_.shape.layout.tp == 1 or draft_.settings.tensor_chunks > 1 or late:
        return
    priced = {n: _repriced(draft_, pricing, site, n) for n in CHUNKS}
    found = {n: seconds for n, seconds in priced.items() if seconds is not None}
    if found:
        best = min(found, key=lambda n: (found[n], n))
        yield Change(f"parallel.tensor_chunks={best}", found[best])


def _sites(site: Site) -> Iterator[tuple[str, Site]]:
    for index, link in enumerate(site.links):
        links = list(site.links)
        links[index] = link.model_copy(update={"gbit_s": link.gbit_s * FASTER})
        name = f"twice the network between {link.between[0]} and {link.between[1]}"
        clusters = tuple(
            cluster.model_copy(update=_with_nics(cluster.groups(), link.kind))
            if cluster.name in link.between
            else cluster
            for cluster in site.clusters
        )
        text = f"{name} ({link.kind} {link.gbit_s:g} to {link.gbit_s * FASTER:g} Gbit/s, cards too)"
        yield text, site.model_copy(update={"links": tuple(links), "clusters": clusters})
    for index, cluster in enumerate(site.clusters):
        for kind in dict.fromkeys(nic.kind for group in cluster.groups() for nic in group.nics):
            if any(kind is link.kind and cluster.name in link.between for link in site.links):
                continue
            other = cluster.model_copy(update=_with_nics(cluster.groups(), kind))
            changed = (*site.clusters[:index], other, *site.clusters[index + 1 :])
            yield (
                f"twice the {kind} network of {cluster.name}",
                site.model_copy(update={"clusters": changed}),
            )
    clusters = tuple(
        c.model_copy(
            update={
                "nodes": tuple(_quicker(group) for group in c.groups()),
                "device": None,
                "nics": (),
            }
        )
        for c in site.clusters
    )
    yield f"devices {DEVICE_FASTER:g} times as fast", site.model_copy(update={"clusters": clusters})


def _with_nics(groups: tuple[NodeGroup, ...], kind: object) -> dict[str, object]:
    changed = tuple(
        group.model_copy(
            update={
                "nics": tuple(
                    nic.model_copy(update={"gbit_s": nic.gbit_s * FASTER})
                    if nic.kind is kind
                    else nic
                    for nic in group.nics
                )
            }
        )
        for group in groups
    )
    return {"nodes": changed, "device": None, "nics": ()}


def _quicker(group: NodeGroup) -> NodeGroup:
    device: Device = group.device
    quicker = device.model_copy(update={"speed": device.speed * DEVICE_FASTER})
    return group.model_copy(update={"device": quicker})


def _repriced(draft_: Draft, pricing: Pricing, site: Site, chunks: int = 0) -> float | None:
    """The same layout and choice on another site, cut anew.

    Args:
        chunks: of tensor collectives; 0: as they are.
    """
    old = draft_.estimates
    base = pricing.cost
    settings = replace(old.settings, tensor_chunks=chunks or old.settings.tensor_chunks)
    execution = replace(base.execution, chunks=settings.tensor_chunks)
    cost = CostModel(
        Topology(site), base.workload, base.calibration, base.rates, execution=execution
    )
    ground = Ground(cost, old.ground.layout, old.rank_map, old.ground.transport)
    request = replace(draft_.request, site=site)
    estimates = Estimates(settings, old.shape, ground, old.choice)
    made = draft(request, settings, estimates)
    if isinstance(made, str):
        return None
    return Pricing(cost, pricing.norms).quick_seconds(made)
