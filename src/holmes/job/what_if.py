"""The same question on another site: changed figures, or a node less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holmes.cost.calibration import calibration_from_dict
from holmes.cost.network import Rates
from holmes.errors import ConfigError, DataError, suggestion
from holmes.hardware.read import site_from
from holmes.hardware.site import Site
from holmes.hardware.topology import Topology
from holmes.job.draft import Draft
from holmes.job.overrides import parse_override
from holmes.plan.layout import Wishes
from holmes.plan.plan import Plan
from holmes.planner.request import PlanRequest


def changed_site(site: Site, words: Sequence[str]) -> Site:
    """A site with ``key.sub=value`` changes, e.g. ``clusters.roce.nics.roce.gbit_s=400``.

    Raises:
        ConfigError: a key that the site does not have, or a bad value.
    """
    draft = Draft("the plan's site", site.model_dump(mode="json", exclude_none=True))
    for word in words:
        change = parse_override(word)
        if not change.for_site:
            raise ConfigError(
                f"`{'.'.join(change.parts)}` belongs to the job, not to the site",
                where=f"--what-if {word}",
                why="a what-if keeps the plan and changes the machines under it",
                next_step="plan again with `holmes plan` to change the job",
            )
        change.apply(draft)
    return site_from(draft.data, draft.where)


def without_node(site: Site, failed: str) -> Site:
    """A site without one node.

    Args:
        failed: ``node:3`` (in site order, from 0) or ``node:ib-1`` (by name).

    Raises:
        ConfigError: there is no such node, or no other one.
    """
    nodes = Topology(site).nodes
    kind, _, which = failed.partition(":")
    names = [node.name for node in nodes]
    if kind != "node" or not which:
        raise ConfigError(
            f"{failed!r} is nothing that can fail", where="--fail", why="write node:3 or node:ib-1"
        )
    index = int(which) if which.isdecimal() and len(which) < 10 else None
    found = [n for n in nodes if n.name == which or n.index == index]
    if not found:
        near = suggestion(which, names)
        raise ConfigError(
            f"the site has no node {which!r}",
            where=f"--fail {failed}",
            why=f"nodes 0 to {len(nodes) - 1}: {', '.join(names[:12])}",
            next_step=f"did you mean node:{near}?" if near else None,
        )
    if len(nodes) == 1:
        raise ConfigError("the only node cannot fail", where=f"--fail {failed}")
    node = found[0]
    first = next(n.index for n in nodes if n.cluster == node.cluster)
    rest = Draft("the plan's site", _without(site, node.cluster, node.index - first))
    return site_from(rest.data, rest.where)


def _without(site: Site, cluster: str, position: int) -> dict[str, Any]:
    """The site's document with one node less; a cluster without nodes goes, and its links."""
    document = site.model_dump(mode="json", exclude_none=True)
    for entry in document["clusters"]:
        if entry["name"] != cluster:
            continue
        if isinstance(entry["nodes"], int):
            entry["nodes"] -= 1
            continue
        for group in entry["nodes"]:
            if position < group["count"]:
                group["count"] -= 1
                break
            position -= group["count"]
        entry["nodes"] = [group for group in entry["nodes"] if group["count"]]
    document["clusters"] = [entry for entry in document["clusters"] if entry["nodes"]]
    names = {entry["name"] for entry in document["clusters"]}
    document["links"] = [e for e in document.get("links", []) if names.issuperset(e["between"])]
    rates = (document.get("rehearsal") or {}).get("rates")
    if rates and cluster not in names:
        rates.pop(cluster, None)
        if not document["links"]:
            rates.pop("links", None)
    return document


def request_again(plan: Plan, site: Site, rates: Rates | None) -> PlanRequest:
    """What has to be asked to plan the same model and batch on another site.

    Rules that a bundle sets (order, transport, partition, overlap) and the sharding stay;
    degrees, schedule, warm-up and recomputation are free. Measured block times were
    taken at one micro-batch size, which then stays too.

    Raises:
        DataError: the plan holds no calibration.
    """
    if not plan.calibration:
        raise DataError(
            "the plan holds no calibration",
            where="calibration",
            next_step="plan again with `holmes plan --output`",
        )
    calibration = calibration_from_dict(plan.calibration)
    return PlanRequest(
        name=plan.name,
        site=site,
        workload=plan.workload,
        global_batch=plan.batch.global_,
        micro_batch=plan.batch.micro if calibration.blocks else None,
        wishes=Wishes(
            sharding=plan.sharding,
            order=plan.order,
            transport=plan.transport,
            partition=plan.partition,
            overlap=plan.overlap,
        ),
        calibration=calibration,
        rates=rates,
        placement_name=plan.placement_name,
    )
