"""Why nothing fits, by how much, and what would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.plan.layout import ScheduleName
from holmes.plan.plan import Batch, Rejected
from holmes.planner.candidates import Choice, Shape
from holmes.planner.draft import draft, fullest
from holmes.planner.estimates import Estimates
from holmes.planner.field import Field
from holmes.planner.pricing import Pricing
from holmes.planner.request import PlanRequest
from holmes.planner.settings import RECOMPUTES, SHARDINGS, Settings

FEWEST_IN_FLIGHT: ScheduleName = "1f1b"
"""The schedule that holds no more micro-batches than any other."""


def nothing_fits(
    request: PlanRequest, settings: Settings, field: Field, rejected: Sequence[Rejected]
) -> ConfigError:
    """The error of a search without a candidate: what binds, by how much, what would fit."""
    nearest = _nearest(settings, field)
    reasons = list(dict.fromkeys(f"{r.layout}: {r.reason}" for r in rejected))
    relief = None
    if nearest is not None:
        reasons = [short_text(nearest)]
        relief = _relief(request, settings, nearest) or _larger(request, nearest)
    return ConfigError(
        f"no plan of {request.workload.name} fits site {request.site.name!r}",
        where="parallel, batch.micro",
        why="; ".join(reasons[:3]),
        next_step=relief
        or "use more or larger devices, or leave more of `parallel` to the planner",
    )


def _larger(request: PlanRequest, nearest: Estimates) -> str:
    """What memory would hold a candidate that no choice makes light enough."""
    _, needs = _fullest(nearest)
    devices = len(nearest.ground.cost.topology.devices)
    freer = ", or leave more of `parallel` to the planner" if _fixed(request) else ""
    return (
        "no recomputation, sharding, schedule or smaller micro-batch makes it fit: use devices of "
        f"at least {math.ceil(needs / 1e9)} GB, or more of these than {devices}{freer}"
    )


def _fixed(request: PlanRequest) -> bool:
    """Whether the wishes leave out layouts."""
    wishes = request.wishes
    return any((wishes.tensor, wishes.pipeline, wishes.data, wishes.context, wishes.expert))


def _relief(request: PlanRequest, settings: Settings, nearest: Estimates) -> str | None:
    """The fewest changes of the nearest candidate that fit, and what they cost in time.

    Changes are of recomputation, sharding, micro-batch and schedule; of as many the fastest.
    """
    now = _seconds(request, settings, nearest)
    for count in (1, 2, 3, 4):
        fits = []
        for what, other in _changed(request, nearest, count):
            made = draft(request, settings, other)
            if not isinstance(made, str):
                seconds = Pricing(other.ground.cost).quick_seconds(made)
                fits.append((seconds, " ".join(what)))
        if fits:
            seconds, text = min(fits)
            more = f" at {seconds / now - 1:+.0%} time" if now else ""
            return f"{text} would fit{more}"
    return None


def _changed(
    request: PlanRequest, nearest: Estimates, count: int
) -> Iterator[tuple[list[str], Estimates]]:
    """The candidate with this many of its choices changed, and the words for them."""
    choice, batch = nearest.choice, nearest.shape.batch
    sharded = SHARDINGS if nearest.ground.replicas > 1 else (choice.sharding,)
    smaller = [batch.micro >> k for k in range(1, batch.micro.bit_length())]
    schedules = dict.fromkeys((choice.schedule, FEWEST_IN_FLIGHT))
    for recompute, sharding, micro, schedule in product(
        RECOMPUTES, sharded, (batch.micro, *smaller), schedules
    ):
        words = [
            word
            for word, changed in (
                (f"parallel.recompute={recompute}", recompute != choice.recompute),
                (f"parallel.sharding={sharding}", sharding != choice.sharding),
                (f"batch.micro={micro}", micro != batch.micro),
                (f"parallel.schedule={schedule}", schedule != choice.schedule),
            )
            if changed
        ]
        if len(words) == count:
            shape = replace(nearest.shape, batch=replace(batch, micro=micro))
            other = replace(choice, recompute=recompute, sharding=sharding)
            if schedule != choice.schedule:
                other = replace(other, schedule=schedule, virtual_stages=1)
                if request.wishes.virtual_stages not in (None, 1):
                    # The new schedule has one stage per rank and refuses a wish for several.
                    words.append("parallel.virtual_stages=1")
            yield words, replace(nearest, shape=shape, choice=other)


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
    stage, needs = _fullest(estimates)
    room = estimates.room[stage]
    return (
        f"{estimates.shape}, {estimates.choice} does not fit in memory: needs "
        f"{needs / 1e9:.1f} GB on stage {stage}, has {room / 1e9:.1f} GB per device"
    )


def _fullest(estimates: Estimates) -> tuple[int, float]:
    """(stage, bytes) with as few micro-batches in flight as the schedule has."""
    return fullest(estimates, (0,) * (estimates.shape.layout.pp - 1))


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
    # Of all stages together: the layout that lacks the least on each of its devices.
    _, ground, micros = min(field.shortest, key=lambda one: one[0] / one[1].layout.pp)
    shape = Shape(ground.layout, Batch(field.survey.global_batch, micros[0]))
    choice = Choice(
        recompute=settings.recomputes[-1],
        sharding=settings.shardings[-1] if ground.replicas > 1 else settings.shardings[0],
        schedule=settings.schedules[0],
        sequence=settings.sequences[0] and ground.layout.tp > 1,
    )
    return Estimates(settings, shape, ground, choice)
