"""A small hand-made plan: two clusters of two nodes, pp 2 x dp 2."""

from __future__ import annotations

from dataclasses import replace

from holmes.hardware.site import Fabric, Site
from holmes.hardware.topology import Topology
from holmes.plan.layout import Layout
from holmes.plan.plan import (
    Batch,
    Group,
    Plan,
    Predicted,
    ScheduleChoice,
    Stage,
    Transport,
)
from holmes.workload.workload import Block, Workload

ETHERNET = {"kind": "ethernet", "gbit_s": 25}


def two_clusters(devices: int = 1, *, named: bool = False) -> Site:
    infiniband = {"kind": "infiniband", "gbit_s": 200, "count": 2}
    if named:
        infiniband["interfaces"] = ["ibp1s0", "ibp2s0"]
    device = {"kind": "a100-80g-sxm", "count": devices}
    return Site.model_validate(
        {
            "name": "two",
            "clusters": [
                {"name": "ib", "nodes": 2, "device": device, "nics": [infiniband, ETHERNET]},
                {
                    "name": "roce",
                    "nodes": 2,
                    "device": device,
                    "nics": [{"kind": "roce", "gbit_s": 200}, ETHERNET],
                },
            ],
            "links": [{"between": ["ib", "roce"], "kind": "ethernet", "gbit_s": 25}],
        }
    )


def plan_for(site: Site | None = None, rank_map: tuple[int, ...] = (0, 1, 2, 3)) -> Plan:
    """Pipeline of two stages, each with its data group on the cluster's fast fabric."""
    site = site or two_clusters()
    topology = Topology(site)
    layout = Layout(pp=2, dp=len(rank_map) // 2)
    half = layout.dp
    first, second = tuple(range(half)), tuple(range(half, 2 * half))

    def group(name: str, axis: str, ranks: tuple[int, ...], fabric: Fabric) -> Group:
        nodes = {topology.devices[rank_map[rank]].node for rank in ranks}
        one_node = len(nodes) == 1
        interfaces = {node.name: node.interfaces(fabric) for node in nodes}
        used = Transport(None if one_node else fabric)
        return Group(name, axis, ranks, used, {} if one_node else interfaces, 100)  # type: ignore[arg-type]

    blocks = tuple(Block(f"b{i}", "transformer", 10, 1, (), {}, 4.0) for i in range(2))
    return Plan(
        name="small",
        site=site,
        workload=Workload("small", "gpt", 8, 4, 1, 16, blocks),
        batch=Batch(8, 1),
        layout=layout,
        sharding="optimizer",
        recompute="none",
        rank_map=rank_map,
        stages=(
            Stage(0, (0, 1), layout, first, "ib"),
            Stage(1, (1, 2), layout, second, "roce"),
        ),
        groups=(
            group("data.s0", "data", first, Fabric.INFINIBAND),
            group("data.s1", "data", second, Fabric.ROCE),
            group("world", "world", first + second, Fabric.ETHERNET),
        ),
        schedule=ScheduleChoice("1f1b", 4, 1, 0, "digest"),
        order="cluster",
        transport="per-group",
        partition="exact",
        overlap=True,
        predicted=Predicted(1.0, 0.9, 1.1, 1.0, 1.0, {}),
    )


def renamed(plan: Plan, name: str) -> Plan:
    return replace(plan, name=name)
