"""Why nothing fits, by how much, and what would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.plan.plan import Batch, Rejected
from holmes.planner.candidates import Choice, Shape
from holmes.planner.draft import draft, fullest
from holmes.planner.estimates import Estimates
from holmes.planner.field import Field
from holmes.planner.pricing import Pricing
from holmes.planner.request import PlanRequest
from holmes.planner.settings import RECOMPUTES, SHARDINGS, Settings


def nothing_fits(
    request: PlanRequest, settings: Settings, field: Field, rejected: Sequence[Rejected]
) -> ConfigError:
    """The error of a search without a candidate: what binds, by how much, what would fit."""
    nearest = _nearest(settings, field)
    reasons = list(dict.fromkeys(f"{r.layout}: {r.reason}" for r in rejected))
    relief = None
    if nearest is not None:
        reasons.insert(0, short_text(nearest))
        relief = _relief(request, settings, nearest)
    return ConfigError(
        f"no plan of {request.workload.name} fits site {request.site.name!r}",
        where="parallel, batch.micro",
        why="; ".join(reasons[:3]),
        next_step=relief
        or "use more or larger devices, a smaller batch.micro, parallel.recompute=full, "
        "or leave more of `parallel` to the planner",
    )


def _relief(request: PlanRequest, settings: Settings, nearest: Estimates) -> str | None:
    """The smallest change of the nearest candidate that fits, and what it costs in time.

    One change at a time: recomputation, sharding, micro-batch.
    """
    now = _seconds(request, settings, nearest)
    choice, shape = nearest.choice, nearest.shape
    tried: list[tuple[str, Estimates]] = []
    for recompute in RECOMPUTES[1:]:
        other = replace(nearest, choice=replace(choice, recompute=recompute))
        tried.append((f"parallel.recompute={recompute}", other))
    for sharding in SHARDINGS[:1] + SHARDINGS[2:]:
        other = replace(nearest, choice=replace(choice, sharding=sharding))
        tried.append((f"parallel.sharding={sharding}", other))
    micro = shape.batch.micro // 2
    while micro:
        batch = replace(shape.batch, micro=micro)
        tried.append((f"batch.micro={micro}", replace(nearest, shape=replace(shape, batch=batch))))
        micro //= 2
    fits = []
    for what, other in tried:
        made = draft(request, settings, other)
        if not isinstance(made, str):
            seconds = Pricing(other.ground.cost).quick_seconds(made)
            fits.append((seconds, what))
    if not fits:
        return None
    seconds, what = min(fits)
    more = f" at {seconds / now - 1:+.0%} time" if now else ""
    return f"{what} would fit{more}"


def _seconds(request: PlanRequest, settings: Settings, nearest: Estimates) -> float:
    """Seconds of the candidate if memory were no matter."""
    site = nearest.ground.cost.topology.site
    clusters = tuple(
        cluster.model_copy(
            update={
                "nodes": tuple(
                    group.model_copy(
                        update={"device": group.device.model_copy(update={"memory_gb": 1e6})}
                    )
                    for group in cluster.groups()
                ),
                "device": None,
                "nics": (),
            }
        )
        for cluster in site.clusters
    )
    cost = replace(
        nearest.ground.cost, topology=Topology(site.model_copy(update={"clusters": clusters}))
    )
    ground = replace(nearest.ground, cost=cost)
    made = draft(request, settings, replace(nearest, ground=ground))
    return 0.0 if isinstance(made, str) else Pricing(cost).quick_seconds(made)


def short_text(estimates: Estimates) -> str:
    """Name the memory that is short for equal counts of blocks."""
    stage, needs = fullest(estimates, (0,) * (estimates.shape.layout.pp - 1))
    room = estimates.room[stage]
    return (
        f"{estimates.shape}, {estimates.choice} does not fit in memory: needs "
        f"{needs / 1e9:.1f} GB on stage {stage}, has {room / 1e9:.1f} GB per device"
    )


def _nearest(settings: Settings, field: Field) -> Estimates | None:
    """The candidate that lacks the least: scored ones first, else the lightest of a layout."""
    best: tuple[float, Estimates] | None = None
    for index, scores in enumerate(field.scores):
        if not len(scores.places):
            continue
        place = int(np.argmin(scores.bytes_))
        short = float(scores.bytes_[place]) - min(scores.ground.room)
        if best is None or short < best[0]:
            row = field.row(np.array([index, place]))
            best = short, Estimates(settings, row.shape, row.ground, row.choice)
    if best is not None:
        return best[1]
    if not field.shortest:
        return None
    _, ground, micros = min(field.shortest, key=lambda one: one[0])
    shape = Shape(ground.layout, Batch(field.survey.global_batch, micros[0]))
    choice = Choice(
        recompute=settings.recomputes[-1],
        sharding=settings.shardings[-1] if ground.replicas > 1 else settings.shardings[0],
        schedule=settings.schedules[0],
        sequence=settings.sequences[0] and ground.layout.tp > 1,
    )
    return Estimates(settings, shape, ground, choice)
