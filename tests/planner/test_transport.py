"""The NIC choice of one group."""

from __future__ import annotations

import pytest

from holmes.errors import ConfigError
from holmes.hardware.site import Fabric, Site
from holmes.hardware.topology import Topology
from holmes.planner.transport import choose_transport, interfaces
from tests.planner.workloads import site


def test_fastest_fabric_that_all_members_share() -> None:
    topology = Topology(site(2, 2))
    a, b, c, d = topology.nodes
    assert choose_transport((a, b), topology, "per-group").fabric is Fabric.INFINIBAND
    assert choose_transport((c, d), topology, "per-group").fabric is Fabric.ROCE
    assert choose_transport((a, c), topology, "per-group").fabric is Fabric.ETHERNET
    assert choose_transport((a, b, c), topology, "per-group").fabric is Fabric.ETHERNET
    assert choose_transport((a, a), topology, "per-group").fabric is None


def test_common_is_what_every_node_shares() -> None:
    hybrid = Topology(site(2, 2))
    assert choose_transport(hybrid.nodes[:2], hybrid, "common").fabric is Fabric.ETHERNET
    alone = Topology(site(2))
    assert choose_transport(alone.nodes, alone, "common").fabric is Fabric.INFINIBAND


def test_a_fast_ethernet_wins_over_a_slow_fabric() -> None:
    topology = Topology(site(2, gbit_s=(1.0, 1.0, 5.0)))
    assert choose_transport(topology.nodes, topology, "per-group").fabric is Fabric.ETHERNET


def test_a_slow_link_counts_for_the_path() -> None:
    data = site(1, 1).model_dump(mode="json")
    data["clusters"][1]["nics"].append({"kind": "infiniband", "gbit_s": 100})
    data["links"].append({"between": ["c0", "c1"], "kind": "infiniband", "gbit_s": 0.01})
    topology = Topology(Site.model_validate(data))
    assert choose_transport(topology.nodes, topology, "per-group").fabric is Fabric.ETHERNET


def test_no_network_names_the_two_clusters() -> None:
    topology = Topology(site(1, 1, linked=False))
    with pytest.raises(ConfigError, match="'c0' and cluster 'c1'"):
        choose_transport(topology.nodes, topology, "per-group")


def test_interfaces_per_node() -> None:
    topology = Topology(site(2, 2))
    across = topology.nodes[1:3]
    chosen = choose_transport(across, topology, "per-group")
    assert interfaces(across, chosen) == {"c0-1": ("eth0",), "c1-0": ("eth0",)}
    inside = topology.nodes[:1]
    assert interfaces(inside, choose_transport(inside, topology, "per-group")) == {"c0-0": ()}
