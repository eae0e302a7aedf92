"""Wiring: what is joined to what, checked by walking frames through the bridges."""

import dataclasses
import json

import pytest

from holmes.errors import ConfigError
from holmes.hardware.site import Fabric, Site
from holmes.hardware.topology import Topology
from holmes.lab.rates import rehearsal_rates
from holmes.lab.wiring import MOST_HOSTS, Wiring, wire, wiring_from

NICS = {
    "infiniband": [{"kind": "infiniband", "gbit_s": 1}, {"kind": "ethernet", "gbit_s": 1}],
    "roce": [{"kind": "roce", "gbit_s": 1}, {"kind": "ethernet", "gbit_s": 1}],
}


def build(
    clusters: dict[str, str], links: list[tuple[str, str, str]], nodes: int = 2
) -> tuple[Topology, Wiring]:
    site = Site.model_validate(
        {
            "name": "s",
            "clusters": [
                {"name": name, "nodes": nodes, "device": {"kind": "cpu-core"}, "nics": NICS[fabric]}
                for name, fabric in clusters.items()
            ],
            "links": [
                {"between": [a, b], "kind": kind, "gbit_s": 1 + i}
                for i, (a, b, kind) in enumerate(links)
            ],
            "rehearsal": {"scale": 0.1},
        }
    )
    topology = Topology(site)
    return topology, wire(topology, rehearsal_rates(site))


def walk(wiring: Wiring, source: int, goal: int, fabric: Fabric) -> list[int] | None:
    """Links that a frame crosses on its way; None when it cannot be sent or is dropped."""
    card = next(one for one in wiring.hosts[source] if one.fabric is fabric)
    target = next(one for one in wiring.hosts[goal] if one.fabric is fabric)
    if (target.address, target.mac) not in card.neighbours:
        return None
    bridge_of = {one.port: one.bridge for host in wiring.hosts for one in host}
    other_end: dict[str, tuple[int, str]] = {}
    for trunk in wiring.trunks:
        for here in (0, 1):
            bridge_of[trunk.ports[here]] = trunk.bridges[here]
            other_end[trunk.ports[here]] = (trunk.link, trunk.bridges[1 - here])
    bridge, crossed = card.bridge, []
    for _ in range(len(wiring.bridges) + 1):
        ports = [
            port for port, mac in wiring.forwards if mac == target.mac and bridge_of[port] == bridge
        ]
        if not ports:
            return None
        assert len(ports) == 1, "a bridge must send a frame to one place"
        if ports[0] == target.port:
            return crossed
        link, bridge = other_end[ports[0]]
        crossed.append(link)
    raise AssertionError("a frame runs in a circle")


def test_fast_fabrics_stay_inside_a_cluster_and_ethernet_crosses() -> None:
    _, wiring = build({"a": "infiniband", "b": "infiniband"}, [("a", "b", "ethernet")])
    assert walk(wiring, 0, 1, Fabric.INFINIBAND) == []
    assert walk(wiring, 0, 2, Fabric.INFINIBAND) is None
    assert walk(wiring, 0, 2, Fabric.ETHERNET) == [0]
    subnets = {host[0].address.rsplit(".", 2)[0] for host in wiring.hosts}
    assert len(subnets) == 2, "each island of a fast fabric is a subnet of its own"


def test_a_link_of_a_fast_fabric_joins_the_islands() -> None:
    _, wiring = build(
        {"a": "infiniband", "b": "infiniband", "c": "roce"},
        [("a", "b", "infiniband"), ("b", "c", "ethernet")],
    )
    assert walk(wiring, 0, 3, Fabric.INFINIBAND) == [0]
    subnets = {host[0].address.rsplit(".", 2)[0] for host in wiring.hosts[:4]}
    assert len(subnets) == 1
    # No Ethernet joins a to the others: the wiring is as poor as the site.
    assert walk(wiring, 0, 2, Fabric.ETHERNET) is None


def test_chains_and_cycles_use_the_fewest_links() -> None:
    _, chain = build(
        {"a": "roce", "b": "roce", "c": "roce"}, [("a", "b", "ethernet"), ("b", "c", "ethernet")]
    )
    assert walk(chain, 0, 5, Fabric.ETHERNET) == [0, 1]
    assert walk(chain, 5, 0, Fabric.ETHERNET) == [1, 0]
    _, cycle = build(
        {"a": "roce", "b": "roce", "c": "roce"},
        [("a", "b", "ethernet"), ("b", "c", "ethernet"), ("a", "c", "ethernet")],
    )
    assert walk(cycle, 0, 5, Fabric.ETHERNET) == [2]
    assert walk(cycle, 5, 0, Fabric.ETHERNET) == [2]
    assert cycle.trunks[2].gbit_s == pytest.approx(0.3)


def test_every_address_and_port_is_used_once() -> None:
    topology, wiring = build({"a": "infiniband", "b": "roce"}, [("a", "b", "ethernet")], nodes=8)
    cards = [card for host in wiring.hosts for card in host]
    assert len(cards) == 2 * len(topology.nodes)
    for field in ("mac", "address", "port"):
        assert len({getattr(card, field) for card in cards}) == len(cards)
    assert all(len(name) <= 15 for name in wiring.bridges)


def test_survives_json() -> None:
    _, wiring = build({"a": "infiniband", "b": "roce"}, [("a", "b", "ethernet")])
    assert wiring_from(json.loads(json.dumps(dataclasses.asdict(wiring)))) == wiring


def test_too_many_hosts() -> None:
    with pytest.raises(ConfigError, match="too many to rehearse"):
        build({"a": "roce"}, [], nodes=MOST_HOSTS + 1)


@pytest.mark.parametrize("name", ["lo", "a-name-of-sixteen", "eth0"])
def test_interface_names_the_kernel_refuses(name: str) -> None:
    site = Site.model_validate(
        {
            "name": "s",
            "clusters": [
                {
                    "name": "a",
                    "nodes": 1,
                    "device": {"kind": "cpu-core"},
                    "nics": [
                        {"kind": "roce", "gbit_s": 1, "interfaces": [name]},
                        {"kind": "ethernet", "gbit_s": 1},
                    ],
                }
            ],
        }
    )
    with pytest.raises(ConfigError, match="cannot be an interface"):
        wire(Topology(site), rehearsal_rates(site))
