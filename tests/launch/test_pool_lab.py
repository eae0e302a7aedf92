"""Ranks on the emulated hosts of a lab."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from holmes.errors import UnavailableError
from holmes.hardware.site import Fabric
from holmes.lab.lab import Isolation, Lab
from holmes.launch.pool import Pool
from tests.launch.plans import two_clusters


@pytest.fixture(params=[Isolation.ROOT, Isolation.USER])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    try:
        hosts = Lab.up(two_clusters(), isolation=request.param)
    except UnavailableError as error:
        pytest.skip(f"no namespaces of this kind here: {error.what}")
    with hosts as lab:
        yield lab


@pytest.mark.lab
def test_ranks_sit_on_their_hosts_and_end_with_the_zygote(lab: Lab, tmp_path: Path) -> None:
    enter = [[path for path in (host.userns_path, host.netns_path) if path] for host in lab.hosts]
    with Pool(
        4,
        enter=enter,
        environment=[
            {"HOLMES_NODE": host.node.name, "GLOO_SOCKET_IFNAME": "eth0"} for host in lab.hosts
        ],
        addresses=[host.addresses[Fabric.ETHERNET] for host in lab.hosts],
        log_dir=tmp_path,
    ) as pool:
        answers = pool.run("tests.launch.cases:interfaces", {}, deadline_seconds=60)
        pids = pool.pids
        os.kill(psutil.Process(pids[0]).ppid(), signal.SIGKILL)
        limit = time.monotonic() + 20
        while any(psutil.pid_exists(pid) for pid in pids):
            assert time.monotonic() < limit, "a rank outlived its zygote"
            time.sleep(0.02)
    assert [answer["names"] for answer in answers] == [["eth0", "ib0", "lo"]] * 2 + [
        ["eth0", "lo", "roce0"]
    ] * 2
    assert [answer["node"] for answer in answers] == ["ib-0", "ib-1", "roce-0", "roce-1"]
    assert [answer["total"] for answer in answers] == [[20.0] * 4] * 4
