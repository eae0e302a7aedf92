"""Capacities, caps and latencies of the network, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from holmes.cost.calibration import DEFAULT, LAB
from holmes.cost.network import GBIT, Network
from holmes.errors import ConfigError
from holmes.hardware.site import Cluster, Device, Fabric, Link, Nic, Site
from holmes.hardware.topology import Topology
from holmes.schedule.instruction import Op


def two_clusters(devices: int = 1, ports: int = 4) -> Topology:
    device = Device(kind="a100-80g-sxm", count=devices)
    eth = Nic(kind=Fabric.ETHERNET, gbit_s=25)
    clusters = tuple(
        Cluster(
            name=name, nodes=2, device=device, nics=(Nic(kind=kind, gbit_s=200, count=ports), eth)
        )
        for name, kind in (("ib", Fabric.INFINIBAND), ("roce", Fabric.ROCE))
    )
    link = Link(between=("ib", "roce"), kind=Fabric.ETHERNET, gbit_s=10, latency_us=50)
    return Topology(Site(name="two", clusters=clusters, links=(link,)))


def network(topology: Topology, **changes: object) -> Network:
    ranks = tuple(range(len(topology.devices)))
    return replace(Network(topology, ranks, DEFAULT), **changes)  # type: ignore[arg-type]


def test_a_transfer_crosses_both_cards_and_the_link_between() -> None:
    net = network(two_clusters())
    traffic = net.transfer(0, 2, 1e9, Fabric.ETHERNET)
    assert traffic.flows[0].resources == (
        "ib-0/ethernet/tx",
        "ib>roce/ethernet",
        "roce-0/ethernet/rx",
    )
    link_rate = 10 * GBIT * DEFAULT.link("ethernet").efficiency
    hop = 50e-6 + 50e-6
    opening = 2 * hop * math.log2(1 + link_rate * 2 * hop / 14_600)
    assert traffic.seconds == pytest.approx(8.4e-6 + hop + opening + 1e9 / link_rate)


def test_one_member_drives_one_port_and_a_full_node_drives_all() -> None:
    net = network(two_clusters(devices=4))
    port = 0.88 * 200 * GBIT
    single = net.transfer(0, 4, 1e9, Fabric.INFINIBAND)
    assert single.flows[0].cap == pytest.approx(port)
    ring = net.collective(Op.REDUCE_SCATTER, range(8), 1e9, Fabric.INFINIBAND)
    between = [flow for flow in ring.flows if "ib-0/infiniband/tx" in flow.resources]
    assert len(between) == 1 and between[0].cap > 4 * port
    assert between[0].bytes == pytest.approx(1e9 * 7 / 8)


def test_given_rates_replace_the_sites_and_its_latencies() -> None:
    topology = two_clusters()
    rates = {(n, f): 0.2 for n in range(4) for f in (Fabric.ETHERNET,)} | {0: 0.1}
    net = network(topology, rates=rates, calibration=LAB)
    traffic = net.transfer(1, 3, 1e6, Fabric.ETHERNET)
    assert net.capacity["ib>roce/ethernet"] == pytest.approx(0.96 * 0.1 * GBIT)
    assert traffic.latency == pytest.approx(1e-3)


def test_members_of_one_node_use_its_device_links_whatever_the_transport() -> None:
    net = network(two_clusters(devices=2))
    flow = net.transfer(0, 1, 1e6, Fabric.ETHERNET).flows[0]
    assert flow.resources == ("ib-0/device0/tx", "ib-0/device1/rx")


def test_direct_exchange_bundles_by_path() -> None:
    net = network(two_clusters(devices=2), calibration=LAB)
    flows = net.collective(Op.REDUCE_SCATTER, range(4), 4e6, Fabric.INFINIBAND).flows
    between = [flow for flow in flows if "ib-0/infiniband/tx" in flow.resources]
    assert [(flow.weight, flow.bytes) for flow in between] == [(4, 4e6)]
    inside = [flow for flow in flows if len(flow.resources) == 2 and "device" in flow.resources[0]]
    assert len(inside) == 4


def test_no_network_is_an_error_that_names_the_nodes() -> None:
    with pytest.raises(ConfigError, match="different nodes"):
        network(two_clusters()).transfer(0, 2, 1.0, None)
    with pytest.raises(ConfigError, match="no infiniband link joins"):
        net = network(Topology(_both_ib()))
        net.transfer(0, 1, 1.0, Fabric.INFINIBAND)


def _both_ib() -> Site:
    nic = (Nic(kind=Fabric.INFINIBAND, gbit_s=100),)
    device = Device(kind="cpu-core")
    clusters = tuple(Cluster(name=n, nodes=1, device=device, nics=nic) for n in ("a", "b"))
    return Site(name="apart", clusters=clusters)
