"""The probe on the hosts of a lab: what it finds is what was built, also where a path is cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holmes.errors import UnavailableError
from holmes.hardware.read import read_site
from holmes.hardware.site import Fabric, Site
from holmes.lab.lab import Isolation, Lab
from tests.lab.hosts import Program, site
from tests.probe.ranks import on_all_hosts

pytestmark = pytest.mark.lab
DEADLINE = 100
ROOT = str(Path(__file__).parents[2])
CLSACT_EGRESS = 0xFFFF_FFF3
SYN_ALONE = "0x0002/0x003f+32"
"""TCP flags behind an IPv4 header without options: a connection is being opened."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    try:
        hosts = Lab.up(site(), isolation=Isolation.AUTO)
    except UnavailableError as error:
        pytest.skip(error.what)
    with hosts:
        if not hosts.shaped:
            pytest.skip(hosts.reason)
        yield hosts


def probe_all(lab: Lab, folder: Path) -> tuple[Site, list[str]]:
    """Run `holmes probe` as one rank on every host, as a launcher would; the first answers."""
    path = folder / "site.yaml"
    words = ("probe", "--quick", "--name", "found", "--json", "--output", str(path))
    codes, answer = on_all_hosts(lab, ["-m", "holmes", *words], folder)
    assert codes == [0] * len(lab.hosts)
    return read_site(str(path)), answer["remarks"]


def clusters_of(found: Site) -> dict[str, list[dict[Fabric, float]]]:
    """For each cluster its nodes, as the rates of their cards."""
    return {
        cluster.name: [{nic.kind: nic.gbit_s for nic in g.nics} for g in cluster.groups()]
        for cluster in found.clusters
    }


def planned(path: Path) -> dict[str, Any]:
    """The plan of a small model on a site file."""
    words = ["--site", str(path), "--model", "gpt-1m", "--global-batch", "32", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "holmes", "plan", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def test_the_lab_is_found_as_it_was_built(lab: Lab, tmp_path: Path) -> None:
    found, remarks = probe_all(lab, tmp_path)
    seen = clusters_of(found)
    assert {name: [set(node) for node in nodes] for name, nodes in seen.items()} == {
        "ib": [{Fabric.INFINIBAND, Fabric.ETHERNET}] * 2,
        "roce": [{Fabric.ROCE, Fabric.ETHERNET}] * 2,
    }
    for cluster, first, fabric in (("ib", 0, Fabric.INFINIBAND), ("roce", 2, Fabric.ROCE)):
        built = lab.rates.nics[first, fabric]
        for node in seen[cluster]:
            assert 0 < node[fabric] < 1.5 * built  # a busy machine measures less, never more
    assert [(link.between, link.kind) for link in found.links] == [
        (("ib", "roce"), Fabric.ETHERNET)
    ]
    assert len(remarks) == 2
    assert all("every pair in both directions" in line for line in remarks)
    plan = planned(tmp_path / "site.yaml")
    assert len(plan["rank_map"]) == len(os.sched_getaffinity(0)) * 4


def test_an_unplugged_card_is_not_planned_with(lab: Lab, tmp_path: Path) -> None:
    lab.link_down(1, Fabric.INFINIBAND)
    found, remarks = probe_all(lab, tmp_path)
    assert {name: [set(n) for n in nodes] for name, nodes in clusters_of(found).items()} == {
        "ethernet": [{Fabric.ETHERNET}] * 2,
        "roce": [{Fabric.ROCE, Fabric.ETHERNET}] * 2,
    }
    assert any("do not reach each other over infiniband, though both have it" in r for r in remarks)
    assert {g["transport"]["fabric"] for g in planned(tmp_path / "site.yaml")["groups"]} <= {
        None, "ethernet", "roce",
    }  # fmt: skip


def refuse_to_connect() -> str:
    """On a host: packets that open a connection over roce0 go nowhere; the others pass."""
    from pyroute2 import IPRoute

    with IPRoute() as kernel:
        (card,), (nowhere,) = (kernel.link_lookup(ifname=name) for name in ("roce0", "lo"))
        kernel.tc("add", "clsact", card)
        kernel.tc(
            "add-filter",
            "u32",
            card,
            parent=CLSACT_EGRESS,
            prio=1,
            protocol=0x0800,
            target=0x1_0001,
            keys=[SYN_ALONE],
            action={
                "kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": nowhere,
            },
        )  # fmt: skip
    return ""


def test_a_path_that_opens_one_way_is_reported_and_not_used(lab: Lab, tmp_path: Path) -> None:
    Program(lab, 2, refuse_to_connect).result()
    found, remarks = probe_all(lab, tmp_path)
    assert [set(node) for node in clusters_of(found)["ethernet"]] == [{Fabric.ETHERNET}] * 2
    (one_way,) = [line for line in remarks if "but not back" in line]
    assert one_way.index("-3 reaches") < one_way.index("-2 over roce, but not back")
    planned(tmp_path / "site.yaml")
