"""The doctor on the hosts of a lab: all machines, and two groups in one process on gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from holmes.errors import UnavailableError
from holmes.hardware.site import Fabric, Site
from holmes.lab.lab import Isolation, Lab
from tests.lab.hosts import SITE
from tests.probe.ranks import on_all_hosts

pytestmark = pytest.mark.lab
DEADLINE = 100
TWO = {
    **SITE,
    "clusters": [
        {
            "name": "ib",
            "nodes": 2,
            "device": {"kind": "cpu-core"},
            "nics": [{"kind": "infiniband", "gbit_s": 200}, {"kind": "ethernet", "gbit_s": 25}],
        }
    ],
    "links": [],
    "rehearsal": {"rates": {"ib": {"infiniband": 1.0, "ethernet": 0.2}}},
}
TWO_GROUPS = """
import json, os
from pathlib import Path
from holmes.launch.environment import from_environ
from holmes.probe.doctor.communicators import probe_communicators
from holmes.probe.doctor.state import MachineState, read_state
from holmes.probe.probe import open_store
from holmes.probe.reach import Exchange

here = from_environ(os.environ)
exchange = Exchange(open_store(here, 60.0), here.launch_rank, here.world_size, 60.0)
mine = read_state(Path("runs"), 29500, ask_port=False).to_json()
states = [MachineState.from_json(each) for each in exchange.all_gather("states", mine)]
address = here.master_address
found = probe_communicators(exchange, states, here.launch_rank, address, "gloo", 1 << 18)
exchange.leave()
if here.launch_rank == 0:
    print(json.dumps([each.to_dict() for each in found]))
"""


@pytest.fixture
def lab() -> Any:
    try:
        hosts = Lab.up(Site.model_validate(TWO), isolation=Isolation.AUTO)
    except UnavailableError as error:
        pytest.skip(error.what)
    with hosts:
        if not hosts.shaped:
            pytest.skip(hosts.reason)
        yield hosts


def test_a_site_and_then_a_cut_cable(lab: Lab, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump(TWO))
    command = ["-m", "holmes", "doctor", "--site", str(site), "--communicators", "--json"]
    codes, found = on_all_hosts(lab, command)
    assert codes == [0, 0], found
    checks = {each["check"]: each for each in found["findings"]}
    assert checks["clocks"]["verdict"] == checks["reachability"]["verdict"] == "ok"
    assert checks["same versions"]["said"] == "2 machines agree"
    assert "no CUDA device" in checks["communicators"]["said"]
    assert {each["node"] for each in found["findings"] if each["check"] == "cards"} == {
        each["node"] for each in found["findings"]
    } - {""}
    lab.link_down(1, Fabric.INFINIBAND)
    codes, found = on_all_hosts(lab, command)
    assert codes[0] == 69
    failed = [each["said"] for each in found["findings"] if each["verdict"] == "fail"]
    assert any("infiniband" in said for said in failed), found


def test_two_groups_in_one_process_in_both_orders(lab: Lab) -> None:
    codes, found = on_all_hosts(lab, ["-c", TWO_GROUPS])
    assert codes == [0, 0]
    assert [each["verdict"] for each in found] == ["ok"] * 8, found  # 2 orders, hosts, groups
    fast = [each["said"] for each in found if "the rdma group" in each["said"]]
    assert len(fast) == 4 and all("over ib0" in said for said in fast)
    assert {said.split(":")[0] for said in fast} == {"rdma then socket", "socket then rdma"}
