"""Elastic: plans for what is left of a site when hosts are gone.

The plan of a smaller site is carried back onto the whole one: its ranks sit on the devices
that are left, so hosts keep their names and seats. Degrees that the job fixed for the whole
site are planned anew; the global batch and the order of the samples stay.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, combinations, islice
from pathlib import Path
from typing import Any

from holmes.cost.calibration import Calibration
from holmes.errors import ConfigError, HolmesError
from holmes.hardware.site import Cluster, Site
from holmes.hardware.topology import Node, Topology
from holmes.job.job import Job
from holmes.job.resolve import ResolvedJob
from holmes.lab.carrier import carriers
from holmes.lab.lab import Host
from holmes.launch.environment import RankEnvironment, by_name
from holmes.plan.codec import write_plan
from holmes.plan.plan import Plan
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES
from holmes.train.planning import default_calibration, request_of
from holmes.train.run_folder import PLANS

Gone = frozenset[str]
"""Names of nodes."""
MOST_PLANS = 24
"""Plans made ahead: without each host, then without each two of them."""
DEGREES = (
    "tensor",
    "pipeline",
    "data",
    "schedule",
    "virtual_stages",
    "extra_warmup",
    "rank_map",
)
"""What a job may fix for its whole site, and what is left of it need not be able to have."""


class Spares:
    """Plans of one job without some hosts.

    Args:
        full: the plan for the whole site.
        rates: shaped rates, by (node, NIC kind) and link, of the whole site.
    """

    def __init__(
        self,
        resolved: ResolvedJob,
        full: Plan,
        calibration: Calibration,
        rates: Mapping[Any, float] | None,
    ) -> None:
        self._resolved = resolved
        self._calibration = calibration
        self._rates = rates
        self._plans: dict[Gone, Plan | HolmesError] = {frozenset(): full}
        self._lock = threading.Lock()

    def prepare(self, run: Path) -> threading.Thread:
        """Make the plans for one and two hosts less in the background, and write them down."""
        thread = threading.Thread(target=self._prepare, args=(run,), name="plans", daemon=True)
        thread.start()
        return thread

    def without(self, gone: Gone) -> Plan:
        """The plan for the site without these hosts.

        Raises:
            HolmesError: there is none.
        """
        with self._lock:
            if gone not in self._plans:
                try:
                    self._plans[gone] = plan_without(
                        self._resolved, gone, self._calibration, self._rates
                    )
                except HolmesError as error:
                    self._plans[gone] = error
            found = self._plans[gone]
        if isinstance(found, HolmesError):
            raise found
        return found

    def _prepare(self, run: Path) -> None:
        folder = run / PLANS
        for gone in self._likely():
            with suppress(HolmesError, OSError):
                plan = self.without(gone)
                folder.mkdir(exist_ok=True)
                write_plan(plan, folder / f"without-{'-and-'.join(sorted(gone))}.json")

    def _likely(self) -> Iterator[Gone]:
        names = [node.name for node in Topology(self._resolved.site).nodes]
        pairs = [*combinations(names, 1), *combinations(names, 2)]
        for gone in pairs[:MOST_PLANS]:
            if len(gone) < len(names):
                yield frozenset(gone)


def plan_without(
    resolved: ResolvedJob,
    gone: Gone,
    calibration: Calibration,
    rates: Mapping[Any, float] | None,
) -> Plan:
    """Plan what is left of a job's site; the plan is of the whole site, some devices idle.

    Raises:
        ConfigError: nothing is left, or no plan fits it.
    """
    parallel = resolved.job.parallel.model_copy(update=dict.fromkeys(DEGREES))
    job = resolved.job.model_copy(update={"parallel": parallel})
    site, nodes = remaining(resolved.site, gone)
    left = None if rates is None else _rates_of(rates, resolved.site, site, nodes)
    smaller = replace(resolved, job=job, site=site)
    request = request_of(smaller, capabilities=CAPABILITIES, calibration=calibration, rates=left)
    return carried_back(make_plan(request), resolved.site, nodes)


def plan_of_launch(plan: Plan, resolved: ResolvedJob, here: RankEnvironment) -> Plan:
    """The plan of a run that goes on, for as many nodes as its launcher has started this time.

    It follows from the chosen plan and the number of processes alone, not from what the run
    had in between: all nodes get the chosen plan again.

    A launcher that was left with fewer nodes numbers them from 0, so where nodes go by their
    number those that are gone are the last ones. Every rank comes to the same answer.

    Args:
        plan: what the run began with, or was given since.

    Raises:
        ConfigError: the nodes have names, so a rank cannot know which of the others are there.
    """
    nodes = Topology(resolved.site).nodes
    devices = list(accumulate(node.device.count for node in nodes))
    if here.world_size == plan.world_size or here.world_size not in devices:
        return plan
    if by_name(Topology(resolved.site), here):
        raise ConfigError(
            f"{here.world_size} processes were started for a plan of {plan.world_size}",
            where=f"launch rank {here.launch_rank}",
            why="the nodes go by their names, so which of them are gone is not known here",
            next_step="plan for the site without them, `holmes plan JOB site=LESS -o less.json`, "
            "and go on with `holmes train JOB site=LESS --plan less.json --resume`",
        )
    gone = frozenset(node.name for node in nodes[devices.index(here.world_size) + 1 :])
    return plan_without(resolved, gone, default_calibration(resolved), None) if gone else plan


def traced_as(first: Plan, plan: Plan, job: Job) -> Job:
    """The job of a run that goes on: traced only where its instructions are those of the plan
    that the run, and with it the trace in its folder, began with."""
    same = (plan.schedule.digest, plan.rank_map) == (first.schedule.digest, first.rank_map)
    return job if same else untraced(job)


def untraced(job: Job) -> Job:
    """The job without a trace: the one that the run folder has is of another plan, whose
    instructions differ."""
    train = job.train.model_copy(update={"trace_steps": 0})
    return job.model_copy(update={"train": train})


def remaining(site: Site, gone: Gone) -> tuple[Site, list[int]]:
    """A site without some nodes, and which node of the whole site each of its nodes is."""
    nodes = iter(Topology(site).nodes)  # by cluster and group, as below
    kept: list[Node] = []
    clusters = []
    for cluster in site.clusters:
        listed = []
        for group in cluster.groups():
            mine = [n for n in islice(nodes, group.count) if n.name not in gone]
            kept += mine
            if mine:
                hosts = tuple(node.host for node in mine if node.host is not None)
                listed.append(group.model_copy(update={"count": len(mine), "hosts": hosts}))
        if listed:
            clusters.append(Cluster(name=cluster.name, nodes=tuple(listed)))
    names = {cluster.name for cluster in clusters}
    links = tuple(link for link in site.links if set(link.between) <= names)
    smaller = site.model_copy(update={"clusters": tuple(clusters), "links": links})
    return smaller, [node.index for node in kept]


def carried_back(plan: Plan, site: Site, nodes: Sequence[int]) -> Plan:
    """A plan of a smaller site as one of the whole site.

    Args:
        nodes: node of the whole site, by node of the smaller one.
    """
    small, whole = Topology(plan.site), Topology(site)
    place = {(slot.node.index, slot.local_index): slot.index for slot in whole.devices}
    device = {slot.index: place[nodes[slot.node.index], slot.local_index] for slot in small.devices}
    name = {node.name: whole.nodes[nodes[node.index]].name for node in small.nodes}
    groups = tuple(
        replace(g, interfaces={name[node]: cards for node, cards in g.interfaces.items()})
        for g in plan.groups
    )
    ranks = tuple(device[index] for index in plan.rank_map)
    return replace(plan, site=site, rank_map=ranks, groups=groups)


def _rates_of(
    rates: Mapping[Any, float], site: Site, smaller: Site, nodes: Sequence[int]
) -> dict[Any, float]:
    """Shaped rates by the numbers of the smaller site."""
    number = {old: new for new, old in enumerate(nodes)}
    links = {site.links.index(link): i for i, link in enumerate(smaller.links)}
    found: dict[Any, float] = {}
    for key, rate in rates.items():
        if isinstance(key, tuple) and key[0] in number:
            found[(number[key[0]], *key[1:])] = rate
        elif key in links:
            found[links[key]] = rate
    return found


def unreachable(hosts: Sequence[Host]) -> Gone:
    """The hosts none of whose cards has a carrier."""
    asked = [host for host in hosts if host.netns_path is not None]
    paths = [[p for p in (host.userns_path, host.netns_path) if p] for host in asked]
    return frozenset(
        host.node.name
        for host, up in zip(asked, carriers(paths), strict=True)
        if not any(up.get(card) for card in host.interfaces.values())
    )
