"""What the doctor says of machines that are well, and of each thing that can be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holmes.hardware.site import Fabric
from holmes.hardware.topology import Node, Topology
from holmes.probe.communicators import REPEATS, Carried, Task, judge, orders, sent_bytes
from holmes.probe.doctor.clocks import ClockOffset
from holmes.probe.doctor.communicators import why_not
from holmes.probe.doctor.examine import node_named
from holmes.probe.doctor.finding import Finding, exit_code, fail, ok, warn
from holmes.probe.doctor.machine import check_machine
from holmes.probe.doctor.site import check_site
from holmes.probe.doctor.state import Hca, MachineState, read_state
from holmes.probe.doctor.variables import check_variables, selects
from holmes.probe.facts import NicFacts
from tests.launch.plans import two_clusters

IB = NicFacts("ibp1s0", Fabric.INFINIBAND, 200.0, "10.0.1.1", "mlx5_0 port 1")
IB2 = NicFacts("ibp2s0", Fabric.INFINIBAND, 200.0, "10.0.1.2", "mlx5_1 port 1")
ETH = NicFacts("eth0", Fabric.ETHERNET, 25.0, "10.0.0.1", "Ethernet interface")
WELL = MachineState(
    name="ib-0",
    versions={"python": "3.11", "holmes": "1", "torch": "2.13", "nccl": "2.29"},
    devices=1,
    device_name="NVIDIA A100",
    cores=64,
    nics=(IB, IB2, ETH),
    mtus={"ibp1s0": 4092, "ibp2s0": 4092, "eth0": 9000},
    hcas=(Hca("mlx5_0", "InfiniBand", True), Hca("mlx5_1", "InfiniBand", True)),
    limits={"open files": 65536, "locked memory": None, "processes": None},
    shm_gb=64.0,
    folder="runs",
    folder_writable=True,
    free_gb=500.0,
    environ={},
    port=29500,
    port_free=True,
)
TOPOLOGY = Topology(two_clusters(named=True))
NODE = TOPOLOGY.nodes[0]


def examined(state: MachineState, node: Node | None = NODE) -> list[Finding]:
    return [*check_machine(state, node), *check_variables(state, node)]


def bad(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    assert all(each.do for each in findings if each.verdict in ("warn", "fail"))
    return [(each.check, each.verdict) for each in findings if each.verdict != "ok"]


def test_a_machine_that_is_well() -> None:
    findings = examined(WELL)
    assert bad(findings) == []
    assert exit_code(findings) == 0
    assert {"versions", "limits", "disk", "threads", "port", "adapters", "devices", "cards"} <= {
        each.check for each in findings
    }


@pytest.mark.parametrize(
    ("change", "check", "verdict"),
    [
        ({"versions": {**WELL.versions, "torch": None}}, "versions", "warn"),
        ({"limits": {"open files": 1024, "locked memory": None}}, "limits", "warn"),
        ({"limits": {"open files": None, "locked memory": 65536}}, "limits", "fail"),
        ({"devices": 8, "shm_gb": 0.06}, "shared memory", "warn"),
        ({"folder_writable": False}, "disk", "fail"),
        ({"free_gb": 2.0}, "disk", "warn"),
        ({"port_free": False}, "port", "warn"),
        ({"environ": {"OMP_NUM_THREADS": "128"}}, "threads", "warn"),
        ({"environ": {"OMP_NUM_THREADS": "many"}}, "threads", "fail"),
        ({"devices": 0}, "devices", "fail"),
        ({"hcas": (Hca("mlx5_0", "InfiniBand", False),)}, "adapters", "warn"),
        ({"nics": (IB, ETH)}, "cards", "fail"),
        ({"nics": (IB, IB2, replace(ETH, gbit_s=1.0))}, "cards", "warn"),
        ({"nics": (IB, IB2, replace(ETH, address=None))}, "cards", "fail"),
        ({"nics": (IB, replace(IB2, kind=Fabric.ROCE), ETH)}, "cards", "fail"),
        ({"environ": {"NCCL_IB_DISABLE": "1"}}, "variables", "fail"),
        ({"environ": {"NCCL_NET": "Socket"}}, "variables", "fail"),
        ({"environ": {"NCCL_SOCKET_IFNAME": "bond0"}}, "variables", "fail"),
        ({"environ": {"NCCL_SOCKET_IFNAME": "=ibp1s0"}}, "variables", "warn"),
        ({"environ": {"GLOO_SOCKET_IFNAME": "eth"}}, "variables", "fail"),
        ({"environ": {"NCCL_IB_HCA": "=mlx4_0"}}, "variables", "fail"),
        ({"environ": {"NCCL_P2P_DISABLE": "1"}}, "variables", "warn"),
        ({"environ": {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}}, "variables", "warn"),
    ],
)
def test_each_thing_that_is_wrong(change: dict[str, Any], check: str, verdict: str) -> None:
    assert bad(examined(replace(WELL, **change))) == [(check, verdict)]


def test_roce_needs_its_address_index() -> None:
    roce = NicFacts("roce0", Fabric.ROCE, 200.0, "10.0.2.1", "mlx5_0 port 1")
    state = replace(WELL, nics=(roce, ETH))
    assert bad(examined(state, TOPOLOGY.nodes[2])) == [("variables", "warn")]
    well = replace(state, environ={"NCCL_IB_GID_INDEX": "3"})
    assert bad(examined(well, TOPOLOGY.nodes[2])) == []


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("eth", ("eth0", "eth1")),
        ("=eth0", ("eth0",)),
        ("^ib", ("eth0", "eth1")),
        ("^=eth0", ("eth1", "ib0")),
        ("ib,eth1", ("eth1", "ib0")),
        ("=ib0:1", ("ib0",)),
    ],
)
def test_what_a_value_selects(pattern: str, chosen: tuple[str, ...]) -> None:
    assert selects(pattern, ("eth0", "eth1", "ib0")) == chosen


def of_two(**changes: Any) -> Callable[..., list[Finding]]:
    """Checks between two InfiniBand nodes, the second of which differs."""
    states = (WELL, replace(WELL, name="ib-1", **changes))
    open_ = {(a, b, kind): 9.0 for a, b in ((0, 1), (1, 0)) for kind in Fabric}

    def checked(reach: Any = open_, offset: float = 0.0) -> list[Finding]:
        clocks = [ClockOffset(0.0, 0.0), ClockOffset(offset, 0.001)]
        return list(check_site(states, TOPOLOGY.nodes[:2], reach, clocks, TOPOLOGY))

    return checked


def test_a_site_that_is_well() -> None:
    assert bad(of_two()()) == []


@pytest.mark.parametrize(
    ("changes", "given", "found"),
    [
        ({"versions": {**WELL.versions, "torch": "2.11"}}, {}, ("same versions", "fail")),
        ({"versions": {**WELL.versions, "python": "3.12"}}, {}, ("same versions", "warn")),
        ({"mtus": {**WELL.mtus, "eth0": 1500}}, {}, ("frames", "warn")),
        ({}, {"offset": 0.5}, ("clocks", "warn")),
        ({}, {"offset": -60.0}, ("clocks", "fail")),
        (
            {},
            {"reach": {(0, 1, kind): 9.0 for kind in Fabric} | {(1, 0, Fabric.ETHERNET): 9.0}},
            ("reachability", "fail"),
        ),
        ({"nics": (replace(IB, address=None), ETH)}, {}, ("reachability", "warn")),
    ],
)
def test_what_machines_disagree_about(
    changes: dict[str, Any], given: dict[str, Any], found: tuple[str, str]
) -> None:
    assert bad(of_two(**changes)(**given)) == [found]


def test_a_machine_is_judged_as_the_node_of_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine whose own variable names another: it judges all of them."""
    monkeypatch.setenv("HOLMES_NODE", TOPOLOGY.nodes[0].name)
    for node in TOPOLOGY.nodes:
        assert node_named(TOPOLOGY, node.name) is node
        assert node.host is None or node_named(TOPOLOGY, node.host) is node
    assert node_named(TOPOLOGY, "elsewhere") is node_named(None, "elsewhere") is None


def test_state_survives_the_exchange(tmp_path: Path) -> None:
    state = read_state(tmp_path / "runs", 29500, {"NCCL_NET": "IB", "SECRET": "x"})
    assert MachineState.from_json(json.loads(json.dumps(state.to_json()))) == state
    assert state.environ == {"NCCL_NET": "IB"}


def test_the_command_says_what_to_do_and_fails() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holmes", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "NCCL_SOCKET_IFNAME": "=none0"},
    )
    assert done.returncode == 69, done.stderr
    found = json.loads(done.stdout)
    assert found["exit_code"] == 69 and found["counts"]["fail"] == 1
    assert exit_code([ok("a", "b"), warn("a", "b", "c")]) == 0 != exit_code([fail("a", "b", "c")])


NETWORKS = (("rdma", "IB", "ibp1s0"), ("socket", "Socket", "eth0"))
TASK = Task(0, 2, "10.0.0.1", 4000, "nccl", NETWORKS, elements=1000)
CARDS = {"rdma": ["ibp1s0", "mlx5_0"], "socket": ["eth0"]}
MOVED = 1000 * 4 * REPEATS


@pytest.mark.parametrize(
    ("carried", "verdict"),
    [
        (Carried("rdma", True, 90.0, {"mlx5_0": MOVED, "eth0": 9}), "ok"),
        (Carried("rdma", True, 9.0, {"mlx5_0": 0, "eth0": MOVED}), "fail"),
        (Carried("rdma", False, 9.0, {"mlx5_0": MOVED}), "fail"),
        (Carried("rdma", True, 9.0, {"eth0": MOVED}), "warn"),
        (Carried("socket", True, 9.0, {"eth0": MOVED}), "ok"),
    ],
)
def test_bytes_tell_which_network_carried_a_group(carried: Carried, verdict: str) -> None:
    (found,) = judge(TASK, [carried], CARDS)
    assert found.verdict == verdict
    assert "rdma then socket" in found.said


def test_both_orders() -> None:
    first, second = orders(NETWORKS)
    assert first == NETWORKS and second == NETWORKS[::-1]


def test_why_two_communicators_cannot_be_probed() -> None:
    other = replace(WELL, name="b")
    assert why_not([WELL, other]) == ""
    assert "two machines" in why_not([WELL])
    assert "CUDA" in why_not([WELL, replace(other, devices=0)])
    assert "RDMA" in why_not([WELL, replace(other, hcas=())])


def test_adapter_counters_count_words_of_four_bytes(tmp_path: Path) -> None:
    counters = tmp_path / "mlx5_0" / "ports" / "1" / "counters"
    counters.mkdir(parents=True)
    (counters / "port_xmit_data").write_text("25\n")
    assert sent_bytes(tmp_path)["mlx5_0"] == 100
