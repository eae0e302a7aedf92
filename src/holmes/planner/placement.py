"""Which device runs each logical rank.

Logical ranks are numbered tensor fastest, then data, then pipeline
(:meth:`holmes.plan.layout.Layout.rank`), so a rank map lists, stage after
stage, the devices of its data replicas, each with its tensor neighbours. The
smallest thing that is placed is a *unit*: ``tp`` devices of one node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice, permutations, zip_longest

from holmes.errors import ConfigError
from holmes.hardware.topology import DeviceSlot, Topology
from holmes.plan.layout import Layout, Order

Unit = tuple[int, ...]
RankMap = tuple[int, ...]
MAX_CLUSTER_ORDERS = 24


def rank_maps(
    topology: Topology, layout: Layout, order: Order, forced: RankMap | None = None
) -> tuple[RankMap, ...]:
    """The rank maps worth pricing for this order; the cost decides among them.

    Raises:
        ConfigError: when ``forced`` is no permutation of the devices, or when a
            tensor group cannot stay inside one node.
    """
    if forced is not None:
        check_rank_map(forced, len(topology.devices))
        candidates: tuple[RankMap, ...] = (forced,)
    elif order == "launch":
        candidates = (tuple(range(len(topology.devices))),)
    elif order == "scattered":
        candidates = (scattered(topology, layout),)
    else:
        candidates = by_cluster(topology, layout)
    inside = tuple(ranks for ranks in candidates if tensor_inside_nodes(topology, layout, ranks))
    if not inside:
        raise ConfigError(
            f"tensor groups of {layout.tp} devices do not fit inside one node in this order",
            where="parallel.tensor",
            why="tensor collectives run inside every block, so they stay on the links of one node",
            next_step=f"lower parallel.tensor, or use nodes whose devices divide by {layout.tp}",
        )
    return inside


def distinct_maps(topology: Topology, maps: Sequence[RankMap]) -> tuple[RankMap, ...]:
    """One rank map of each class that differs only in the names of equal clusters."""
    if len(maps) < 2:
        return tuple(maps)
    alike = _alike(topology)
    if len(set(alike.values())) == len(alike):
        return tuple(maps)
    groups = {id(node.group): node.group for node in topology.nodes}
    kinds = {key: repr(group.device) for key, group in groups.items()}
    found: dict[tuple[object, ...], RankMap] = {}
    for ranks in maps:
        slots = [topology.devices[index] for index in ranks]
        seen: dict[str, int] = {}
        nodes: dict[int, int] = {}
        key = tuple(
            (
                alike[slot.node.cluster],
                seen.setdefault(slot.node.cluster, len(seen)),
                nodes.setdefault(slot.node.index, len(nodes)),
                kinds[id(slot.node.group)],
            )
            for slot in slots
        )
        found.setdefault(key, ranks)
    return tuple(found.values())


def _alike(topology: Topology) -> dict[str, str]:
    """For each cluster a text that equal clusters share: what is in it, what leads out of it."""
    site = topology.site
    within = {c.name: repr(c.model_copy(update={"name": "x"})) for c in site.clusters}
    found = {}
    for cluster in site.clusters:
        out = sorted(
            f"{link.kind} {link.gbit_s} {link.latency_us} {within[other]}"
            for link in site.links
            if cluster.name in link.between
            for other in link.between
            if other != cluster.name
        )
        found[cluster.name] = within[cluster.name] + "|".join(out)
    return found


def by_cluster(topology: Topology, layout: Layout) -> tuple[RankMap, ...]:
    """Rank maps that keep as many stages as possible inside one cluster.

    One map per order of the clusters along the pipeline. A cluster first fills
    as many whole stages as it can; what is left over of several clusters is
    pooled into the stages between them, which is the fewest stages that any
    order can spread over clusters.
    """
    clusters = [
        units
        for cluster in topology.site.clusters
        if (units := _units(topology, layout.tp, cluster.name))
    ]
    orders = islice(permutations(clusters), MAX_CLUSTER_ORDERS)
    maps = (_fill(order, layout) for order in orders)
    return tuple(dict.fromkeys(found for found in maps if found is not None))


def scattered(topology: Topology, layout: Layout) -> RankMap:
    """Data groups across clusters: neighbouring replicas round-robin over the clusters."""
    columns = [_units(topology, layout.tp, cluster.name) for cluster in topology.site.clusters]
    dealt = [unit for row in zip_longest(*columns) for unit in row if unit is not None]
    return tuple(chain.from_iterable(dealt))


def tensor_inside_nodes(topology: Topology, layout: Layout, ranks: RankMap) -> bool:
    """Whether every tensor group of a rank map sits in one node."""
    devices = topology.devices
    return all(
        devices[ranks[first]].node.index == devices[ranks[first + offset]].node.index
        for first in range(0, len(ranks), layout.tp)
        for offset in range(1, layout.tp)
    )


def stage_slots(topology: Topology, layout: Layout, ranks: RankMap, stage: int) -> list[DeviceSlot]:
    """The devices of a stage, in rank order."""
    size = layout.tp * layout.dp * layout.cp
    return [topology.devices[device] for device in ranks[stage * size : (stage + 1) * size]]


def cluster_of(slots: Iterable[DeviceSlot]) -> str:
    """The cluster of a stage; several are joined by ``+`` in the order they appear."""
    return "+".join(dict.fromkeys(slot.node.cluster for slot in slots))


def check_rank_map(ranks: RankMap, devices: int) -> None:
    """Refuse a rank map that is no permutation of the devices.

    Raises:
        ConfigError: saying whether the length, a repeated or an unknown index is wrong.
    """
    if len(ranks) != devices:
        what = f"the rank map has {len(ranks)} entries, the site has {devices} devices"
    elif unknown := [index for index in ranks if not 0 <= index < devices]:
        what = f"the rank map names device {unknown[0]}, the site has devices 0 to {devices - 1}"
    elif repeated := [index for index in ranks if ranks.count(index) > 1]:
        what = f"the rank map names device {repeated[0]} twice"
    else:
        return
    raise ConfigError(
        what,
        where="parallel.rank_map",
        why="entry i is the device, in site-file order, that runs logical rank i",
        next_step=f"give each of 0 to {devices - 1} exactly once",
    )


def _units(topology: Topology, tp: int, cluster: str) -> list[Unit]:
    """The units of a cluster in site order; devices that fill no unit are left out."""
    units: list[Unit] = []
    firsts = _devices_of_nodes(topology)
    for node in topology.nodes:
        if node.cluster != cluster:
            continue
        mine = firsts[node.index]
        units += [tuple(mine[i : i + tp]) for i in range(0, len(mine) - tp + 1, tp)]
    return units


def _devices_of_nodes(topology: Topology) -> list[list[int]]:
    """Device indices of each node."""
    found: list[list[int]] = [[] for _ in topology.nodes]
    for slot in topology.devices:
        found[slot.node.index].append(slot.index)
    return found


def _fill(clusters: Sequence[list[Unit]], layout: Layout) -> RankMap | None:
    """Stages in pipeline order for one order of the clusters, or None if units are short."""
    replicas = layout.dp * layout.cp
    stages: list[list[Unit]] = []
    pool: list[Unit] = []
    for units in clusters:
        spare = len(units) % replicas
        # Units that complete a pooled stage come from the near end of the cluster.
        left, whole = (units[:spare], units[spare:]) if pool else _split_tail(units, spare)
        pool += left
        while len(pool) >= replicas:
            stages.append(pool[:replicas])
            pool = pool[replicas:]
        stages += [whole[i : i + replicas] for i in range(0, len(whole), replicas)]
    if len(stages) < layout.pp:
        return None
    return tuple(chain.from_iterable(chain.from_iterable(stages[: layout.pp])))


def _split_tail(units: list[Unit], spare: int) -> tuple[list[Unit], list[Unit]]:
    cut = len(units) - spare
    return units[cut:], units[:cut]
