"""From reachability to clusters and links, and reading cards from sysfs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from holmes.hardware.catalogue import device_kinds
from holmes.hardware.read import read_site
from holmes.hardware.site import Fabric
from holmes.hardware.topology import Topology
from holmes.probe import nics as nics_module
from holmes.probe.clusters import Reach, find_clusters
from holmes.probe.facts import Measured, NicFacts, NodeFacts
from holmes.probe.machine import kind_of, nearest_kind
from holmes.probe.nics import find_nics
from holmes.probe.probe import distinct
from holmes.probe.write import site_text

IB, ROCE, ETHERNET = Fabric.INFINIBAND, Fabric.ROCE, Fabric.ETHERNET


def node(index: int, *kinds: Fabric) -> NodeFacts:
    cards = tuple(
        NicFacts(f"{kind.value[:4]}0", kind, None, f"10.0.0.{index}", "test") for kind in kinds
    )
    return NodeFacts(f"n{index}", f"id{index}", "cpu-core", 1, "CPU", 8.0, 100.0, cards)


def full(pairs: list[tuple[int, int]], fabric: Fabric, rate: float) -> Reach:
    return {(a, b, fabric): rate for x, y in pairs for a, b in ((x, y), (y, x))}


TWO_BY_TWO = (
    node(0, IB, ETHERNET),
    node(1, IB, ETHERNET),
    node(2, ROCE, ETHERNET),
    node(3, ROCE, ETHERNET),
)
EVERY_PAIR = [(a, b) for a in range(4) for b in range(a + 1, 4)]


def test_two_fabrics_make_two_clusters_and_an_ethernet_link() -> None:
    reach = {
        **full([(0, 1)], IB, 2.0),
        **full([(2, 3)], ROCE, 1.0),
        **full(EVERY_PAIR, ETHERNET, 0.2),
    }
    found = find_clusters(TWO_BY_TWO, reach)
    assert [(c.name, c.nodes, c.fabric) for c in found.clusters] == [
        ("ib", (0, 1), IB),
        ("roce", (2, 3), ROCE),
    ]
    assert [(link.between, link.fabric, link.gbit_s) for link in found.links] == [
        (("ib", "roce"), ETHERNET, 0.2)
    ]


def test_same_fabric_that_does_not_reach_is_two_clusters() -> None:
    nodes = tuple(node(i, IB, ETHERNET) for i in range(4))
    reach = {**full([(0, 1), (2, 3)], IB, 2.0), **full(EVERY_PAIR, ETHERNET, 0.2)}
    found = find_clusters(nodes, reach)
    assert [c.nodes for c in found.clusters] == [(0, 1), (2, 3)]
    assert any("do not reach each other over infiniband" in line for line in found.remarks)


def test_one_way_path_is_reported_and_not_used() -> None:
    reach = dict(full([(0, 1)], ETHERNET, 0.2))
    reach[0, 1, IB] = 2.0
    found = find_clusters(TWO_BY_TWO[:2], reach)
    assert found.clusters[0].fabric is ETHERNET
    assert any("n0 reaches n1 over infiniband, but not back" in line for line in found.remarks)


def test_one_blocked_pair_splits_a_cluster() -> None:
    nodes = tuple(node(i, IB, ETHERNET) for i in range(3))
    reach = {**full([(0, 1), (1, 2)], IB, 2.0), **full([(0, 1), (1, 2), (0, 2)], ETHERNET, 0.2)}
    assert [c.nodes for c in find_clusters(nodes, reach).clusters] == [(0, 1), (2,)]


def test_a_node_that_nobody_reaches_is_left_out() -> None:
    reach = {**full([(0, 1)], IB, 2.0), **full([(0, 1)], ETHERNET, 0.2)}
    found = find_clusters(TWO_BY_TWO[:3], reach)
    assert [(c.name, c.nodes) for c in found.clusters] == [("ib", (0, 1))]
    assert found.links == ()
    assert "cluster single2 is left out: no network joins it to the rest" in found.remarks


def test_the_largest_part_is_kept() -> None:
    reach = {**full([(2, 3)], ROCE, 2.0), **full([(1, 2), (1, 3), (2, 3)], ETHERNET, 0.2)}
    found = find_clusters(TWO_BY_TWO, reach)
    assert [c.nodes for c in found.clusters] == [(1,), (2, 3)]
    assert [link.between for link in found.links] == [("single1", "roce")]


def test_a_network_that_does_not_join_its_cluster_is_left_out_of_it() -> None:
    """Inside a cluster the planner takes every network of all its nodes for joined."""
    nodes = TWO_BY_TWO[:2]
    reach = {**full([(0, 1)], ETHERNET, 0.2), (0, 1, IB): 2.0}
    found = find_clusters(nodes, reach)
    text = site_text("s", nodes, found, reach)
    assert "infiniband is left out of cluster ethernet" in " ".join(found.remarks)
    assert "kind: infiniband" not in text
    assert text.count("kind: ethernet") == 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80g-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-80g-sxm"),
        ("NVIDIA A100 80GB PCIe", "a100-80g-pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100-40g-sxm"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090-24g"),
        ("Tesla T4", "t4-16g"),
        ("NVIDIA H200", "h200-141g-sxm"),
        ("Tesla V100-SXM2-32GB", "v100-32g-sxm2"),
        ("NVIDIA RTX A6000", None),
        ("NVIDIA Quadro P400", None),
    ],
)
def test_device_names_find_their_kind(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def test_an_unknown_device_takes_the_kind_with_the_nearest_memory() -> None:
    assert nearest_kind(12.3) in device_kinds()
    assert nearest_kind(139.0).startswith("h200")


def test_hosts_are_written_where_they_tell_nodes_apart(tmp_path: Path) -> None:
    """Nodes of two clusters in turns: the site lists them in another order than the launch."""
    apart = tuple(
        replace(n, host=n.name)
        for n in (node(i, IB if i % 2 else ROCE, ETHERNET) for i in range(4))
    )
    reach = {**full([(1, 3)], IB, 2.0), **full([(0, 2)], ROCE, 1.0)}
    reach |= full(EVERY_PAIR, ETHERNET, 0.2)
    path = tmp_path / "site.yaml"
    path.write_text(site_text("s", apart, find_clusters(apart, reach), reach))
    hosts = {n.host: n.name for n in Topology(read_site(str(path))).nodes}
    assert hosts == {"n0": "roce-0", "n2": "roce-1", "n1": "ib-0", "n3": "ib-1"}
    assert distinct((apart[0], apart[0]))[1].host == ""
    assert distinct((apart[0], apart[0]))[1].name == "n0-1"


def test_site_file_reads_back(tmp_path: Path) -> None:
    measured = Measured.of([1.0, 2.0, 3.0])
    nodes = tuple(replace(n, matmul_tflops=measured, copy_gbytes_s=measured) for n in TWO_BY_TWO)
    reach = {
        **full([(0, 1)], IB, 2.0),
        **full([(2, 3)], ROCE, 1.0),
        **full(EVERY_PAIR, ETHERNET, 0.2),
    }
    path = tmp_path / "site.yaml"
    path.write_text(site_text("found", nodes, find_clusters(nodes, reach), reach))
    site = read_site(str(path))
    assert [cluster.name for cluster in site.clusters] == ["ib", "roce"]
    groups = site.clusters[1].groups()
    assert groups[0].nics[0].kind is ROCE
    assert groups[0].nics[0].gbit_s == 1.0
    assert groups[0].device.matmul_tflops == 2.0


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    present: dict[str, int] = {}

    def interface(name: str, kind: str = "1", speed: str = "25000") -> None:
        folder = tmp_path / "net" / name
        folder.mkdir(parents=True)
        present[name] = len(present) + 1
        (folder / "ifindex").write_text(f"{present[name]}\n")
        (folder / "type").write_text(kind)
        (folder / "speed").write_text(speed)

    interface("lo")
    interface("eth0")
    interface("eth1")
    interface("ibs3", kind="32", speed="-1")
    interface("enp9s0", speed="100000")
    for device, layer, net in (("mlx5_0", "InfiniBand", "ibs3"), ("mlx5_1", "Ethernet", "enp9s0")):
        port = tmp_path / "infiniband" / device / "ports" / "1"
        port.mkdir(parents=True)
        (port / "link_layer").write_text(layer)
        (port / "rate").write_text("200 Gb/sec (4X HDR)")
        (tmp_path / "infiniband" / device / "device" / "net" / net).mkdir(parents=True)
    monkeypatch.setattr(nics_module, "_address", lambda name: None)
    monkeypatch.setattr(nics_module, "_is_up", lambda name: name != "eth1")
    monkeypatch.setattr(nics_module, "interfaces", lambda: present)
    return tmp_path


def test_cards_from_sysfs(sysfs: Path) -> None:
    found = {nic.interface: (nic.kind, nic.gbit_s) for nic in find_nics(sysfs)}
    assert found == {
        "enp9s0": (ROCE, 200.0),
        "eth0": (ETHERNET, 25.0),
        "ibs3": (IB, 200.0),
    }


def test_sysfs_of_another_namespace_is_not_believed(
    sysfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an emulated host /sys may show the cards of the machine, some of the same name."""
    monkeypatch.setattr(nics_module, "interfaces", lambda: {"lo": 1, "eth0": 7, "roce0": 8})
    found = {nic.interface: (nic.kind, nic.gbit_s) for nic in find_nics(sysfs)}
    assert found == {"eth0": (ETHERNET, None), "roce0": (ROCE, None)}
