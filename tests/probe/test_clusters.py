"""From reachability to clusters and links, and reading cards from sysfs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from holmes.hardware.read import read_site
from holmes.hardware.site import Fabric
from holmes.probe import nics as nics_module
from holmes.probe.clusters import Reach, find_clusters
from holmes.probe.facts import Measured, NicFacts, NodeFacts
from holmes.probe.nics import find_nics
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


def test_unreached_node_has_no_link() -> None:
    found = find_clusters(TWO_BY_TWO[:2], {})
    assert len(found.clusters) == 2
    assert found.links == ()


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
    def interface(name: str, kind: str = "1", flags: str = "0x1003", speed: str = "25000") -> None:
        folder = tmp_path / "net" / name
        folder.mkdir(parents=True)
        (folder / "type").write_text(kind)
        (folder / "flags").write_text(flags)
        (folder / "speed").write_text(speed)

    interface("lo")
    interface("eth0")
    interface("eth1", flags="0x1002")
    interface("ibs3", kind="32", speed="-1")
    interface("enp9s0", speed="100000")
    for device, layer, net in (("mlx5_0", "InfiniBand", "ibs3"), ("mlx5_1", "Ethernet", "enp9s0")):
        port = tmp_path / "infiniband" / device / "ports" / "1"
        port.mkdir(parents=True)
        (port / "link_layer").write_text(layer)
        (port / "rate").write_text("200 Gb/sec (4X HDR)")
        (tmp_path / "infiniband" / device / "device" / "net" / net).mkdir(parents=True)
    monkeypatch.setattr(nics_module, "_address", lambda name: None)
    return tmp_path


def test_cards_from_sysfs(sysfs: Path) -> None:
    found = {nic.interface: (nic.kind, nic.gbit_s) for nic in find_nics(sysfs)}
    assert found == {
        "enp9s0": (ROCE, 200.0),
        "eth0": (ETHERNET, 25.0),
        "ibs3": (IB, 200.0),
    }
