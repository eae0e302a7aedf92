"""Smaller sites inside a site: what the same job needs at least, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from holmes.errors import ConfigError
from holmes.hardware.site import Cluster, Site
from holmes.hardware.topology import Topology
from holmes.planner.request import PlanRequest
from holmes.planner.search import Scored, Search

MOST_SITES = 64


@dataclass(frozen=True)
class Sized:
    """The best plan of a part of a site.

    Attributes:
        nodes: per cluster of the site.
        dollars_per_hour: sum of the prices of its nodes; None where one has no price.
    """

    site: Site
    nodes: tuple[int, ...]
    devices: int
    search: Search
    best: Scored
    dollars_per_hour: float | None

    @property
    def seconds(self) -> float:
        return self.best.seconds

    @property
    def tokens_per_second(self) -> float:
        request = self.search.request
        return request.global_batch * request.workload.sequence / self.seconds

    @property
    def dollars_per_million_tokens(self) -> float | None:
        """Cost of a million tokens; None without prices."""
        if self.dollars_per_hour is None:
            return None
        return self.dollars_per_hour / 3600 / self.tokens_per_second * 1e6


def sized(request: PlanRequest, site: Site) -> Sized:
    """The best plan of one site.

    Raises:
        ConfigError: when there is none.
    """
    search = Search(replace(request, site=site))
    nodes = tuple(sum(group.count for group in cluster.groups()) for cluster in site.clusters)
    best = search.winner()
    devices = len(Topology(site).devices)
    return Sized(site, nodes, devices, search, best, price(site))


def price(site: Site) -> float | None:
    """Dollars (or whatever the site's prices are in) per hour of all nodes."""
    groups = [group for cluster in site.clusters for group in cluster.groups()]
    prices = [group.price_per_hour for group in groups]
    if any(each is None for each in prices):
        return None
    return sum(g.count * p for g, p in zip(groups, prices, strict=True) if p is not None)


def parts(site: Site) -> Iterator[Site]:
    """The site with fewer nodes: halves, quarters, ... of each cluster, and without it.

    Clusters of several node groups are kept whole or left out. At most
    :data:`MOST_SITES`, the whole site first.
    """
    choices = [_counts(cluster) for cluster in site.clusters]
    for number, counts in enumerate(product(*choices)):
        if number >= MOST_SITES:
            return
        kept = tuple(
            with_nodes(cluster, count)
            for cluster, count in zip(site.clusters, counts, strict=True)
            if count
        )
        if kept:
            names = {cluster.name for cluster in kept}
            links = tuple(link for link in site.links if set(link.between) <= names)
            yield site.model_copy(update={"clusters": kept, "links": links})


def with_nodes(cluster: Cluster, count: int) -> Cluster:
    """The cluster with another number of nodes; one of several groups stays as it is."""
    if not isinstance(cluster.nodes, int):
        return cluster
    return cluster.model_copy(update={"nodes": count})


def scaled(site: Site, nodes: int) -> Site:
    """The site with this many nodes in all, its clusters in proportion.

    Raises:
        ConfigError: a cluster of several node groups, or fewer nodes than clusters.
    """
    have = [cluster.nodes for cluster in site.clusters]
    if not all(isinstance(count, int) for count in have):
        raise ConfigError(
            "--sweep needs clusters whose nodes are a number",
            where="site.clusters",
            why="it scales each cluster, and cannot tell which group of a mixed one to scale",
        )
    if nodes < len(have):
        raise ConfigError(
            f"{nodes} nodes for {len(have)} clusters",
            where="--sweep",
            next_step=f"start the sweep at {len(have)} nodes",
        )
    total = sum(count for count in have if isinstance(count, int))
    counts = [max(1, nodes * count // total) for count in have if isinstance(count, int)]
    counts[0] += nodes - sum(counts)
    clusters = zip(site.clusters, counts, strict=True)
    return site.model_copy(update={"clusters": tuple(with_nodes(c, n) for c, n in clusters)})


def smallest(request: PlanRequest, target_seconds: float) -> Sized:
    """The part of the site with the fewest devices that makes a step in time.

    Raises:
        ConfigError: when even the whole site does not; says by how much.
    """
    fastest: Sized | None = None
    for site in sorted(parts(request.site), key=lambda one: len(Topology(one).devices)):
        found = _tried(request, site)
        if found is None:
            continue
        if found.seconds <= target_seconds:
            return found
        if fastest is None or found.seconds < fastest.seconds:
            fastest = found
    if fastest is None:
        return sized(request, request.site)
    raise ConfigError(
        f"no part of site {request.site.name!r} makes a step in {target_seconds:g} s",
        where="--target",
        why=f"the fastest, {fastest.devices} devices, needs {fastest.seconds:.3g} s: "
        f"{fastest.seconds / target_seconds:.2f} times too slow",
        next_step=f"allow {fastest.seconds:.3g} s, or use more or faster devices",
    )


def cheapest(request: PlanRequest) -> Sized:
    """The part of the site with the least cost per token.

    Raises:
        ConfigError: when a node has no price, or nothing fits.
    """
    if price(request.site) is None:
        raise ConfigError(
            "the cost of a token needs the price of every node",
            where="site.clusters.<name>.price_per_hour",
            next_step="give `price_per_hour` in each cluster of the site",
        )
    found = [one for site in parts(request.site) if (one := _tried(request, site)) is not None]
    if not found:
        return sized(request, request.site)
    return min(found, key=lambda one: (one.dollars_per_million_tokens or 0.0, one.devices))


def _tried(request: PlanRequest, site: Site) -> Sized | None:
    try:
        return sized(request, site)
    except ConfigError:
        return None


def _counts(cluster: Cluster) -> list[int]:
    if not isinstance(cluster.nodes, int):
        return [1, 0]
    found = []
    count = cluster.nodes
    while count:
        found.append(count)
        count //= 2
    return [*found, 0]
