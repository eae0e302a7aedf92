"""The lab on the real kernel: addresses, reachability, counters, rates, isolation."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holmes.errors import ConfigError, UnavailableError
from holmes.hardware.site import Fabric
from holmes.lab.counters import read_counters
from holmes.lab.lab import Isolation, Lab
from holmes.lab.probe import capabilities
from tests.lab.hosts import Program, all_gone, connect, quickest, receive, send, site, transfer

IB, ROCE, ETH = Fabric.INFINIBAND, Fabric.ROCE, Fabric.ETHERNET
MIB = 1 << 20
STRAY = 1024
"""Bytes of housekeeping (a group membership report, a late acknowledgement) that a card may see."""
pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(site()) as up:
        if not up.shaped:
            pytest.skip(up.reason)
        yield up


def test_hosts_have_the_interfaces_and_addresses_they_say(lab: Lab) -> None:
    assert [host.node.name for host in lab.hosts] == ["ib-0", "ib-1", "roce-0", "roce-1"]
    for host in lab.hosts:
        fast = "ib0" if host.node.cluster == "ib" else "roce0"

        def look(addresses: tuple[str, ...] = tuple(host.addresses.values())) -> str:
            for address in addresses:
                socket.create_server((address, 0)).close()
            return " ".join(sorted(read_counters()))

        found = Program(lab, host.node.index, look).result().split()
        assert found == sorted(["lo", "eth0", fast])
        assert set(host.interfaces.values()) == {"eth0", fast}


def test_who_reaches_whom(lab: Lab) -> None:
    def knock(address: str) -> str:
        try:
            socket.create_connection((address, 9), timeout=2).close()
        except OSError as error:
            return str(error.errno)
        return "0"

    for a in lab.hosts:
        for b in lab.hosts:
            for fabric, address in b.addresses.items():
                index = a.node.index
                answer = int(Program(lab, index, lambda to=address: knock(to)).result())  # type: ignore[misc]
                near = a.node.cluster == b.node.cluster or fabric is ETH
                # Nobody listens: a refusal comes from the host itself, so it was reached.
                assert answer == (errno.ECONNREFUSED if near else errno.ENETUNREACH), (a, b, fabric)


def test_counters_see_a_transfer_on_its_own_card_only(lab: Lab) -> None:
    before = [lab.counters(i) for i in range(4)]
    transfer(lab, 0, 1, IB, 4 * MIB)
    after = [lab.counters(i) for i in range(4)]
    sent = after[0]["ib0"] - before[0]["ib0"]
    taken = after[1]["ib0"] - before[1]["ib0"]
    assert 4 * MIB <= sent.tx_bytes <= 1.02 * 4 * MIB
    assert abs(taken.rx_bytes - sent.tx_bytes) <= STRAY, "one is read after the other"
    assert sent.rx_bytes <= 0.01 * 4 * MIB
    for i in range(4):
        other = after[i]["eth0"] - before[i]["eth0"]
        assert max(other.tx_bytes, other.rx_bytes) <= STRAY, "the payload stays off the other card"


def test_the_slower_fabric_is_slower(lab: Lab) -> None:
    fast = quickest(lab, 0, 1, IB, 2 * MIB)
    slow = transfer(lab, 2, 3, ROCE, 2 * MIB)
    assert slow / fast > 3, "500 against 50 Mbit/s"


def test_a_site_link_is_shared_by_all_nodes(lab: Lab) -> None:
    addresses = [lab.hosts[i].addresses[ETH] for i in (2, 3)]
    alone = quickest(lab, 0, 2, ETH, 2 * MIB)
    servers = [
        Program(lab, 2 + i, lambda to=addresses[i]: receive(to, 6001))  # type: ignore[misc]
        for i in (0, 1)
    ]
    clients = [
        Program(lab, i, lambda to=addresses[i]: send(to, 6001, 2 * MIB))  # type: ignore[misc]
        for i in (0, 1)
    ]
    together = [float(client.result()) for client in clients]
    assert [server.result() for server in servers] == [str(2 * MIB)] * 2
    assert max(together) / alone > 1.4, "two pairs through the link of one"


def test_rates_can_be_changed_and_restored(lab: Lab) -> None:
    for node in (2, 3):
        lab.set_rate(node, ROCE, 0.5)
    fast = quickest(lab, 2, 3, ROCE, 2 * MIB)
    for node in (2, 3):
        lab.set_rate(node, ROCE, 0.05)
    assert transfer(lab, 2, 3, ROCE, 2 * MIB) / fast > 3
    lab.set_link_rate(0, 0.01)
    slow = transfer(lab, 0, 2, ETH, MIB // 2)
    lab.set_link_rate(0, 0.1)
    assert slow / quickest(lab, 0, 2, ETH, MIB // 2) > 3
    with pytest.raises(ConfigError, match="cannot be shaped"):
        lab.set_rate(2, ROCE, 40.0)
    with pytest.raises(ConfigError, match="no infiniband card"):
        lab.set_rate(2, IB, 1.0)
    with pytest.raises(ConfigError, match="no link 7"):
        lab.set_link_rate(7, 1.0)


def test_a_card_can_be_unplugged_and_plugged_in(lab: Lab) -> None:
    address = lab.hosts[1].addresses[IB]

    def try_once() -> str:
        try:
            socket.create_connection((address, 9), timeout=0.5).close()
        except ConnectionRefusedError:
            return "reached"
        except OSError:
            return "lost"
        return "open"

    assert Program(lab, 0, try_once).result() == "reached"
    lab.link_down(1, IB)
    try:
        assert Program(lab, 0, try_once).result() == "lost"
        assert transfer(lab, 0, 1, ETH, 1000) > 0, "the other card goes on"
    finally:
        lab.link_up(1, IB)
    assert transfer(lab, 0, 1, IB, 1000) > 0


def test_nothing_appears_in_our_own_namespace(lab: Lab) -> None:
    assert lab.isolation is not Isolation.LOOPBACK
    own = Path("/proc/self/ns/net").readlink()
    assert all(Path(host.netns_path or "").readlink() != own for host in lab.hosts)
    names = set(read_counters())
    with Lab.up(site()):
        assert set(read_counters()) == names


def test_two_labs_side_by_side_do_not_meet(lab: Lab) -> None:
    with Lab.up(site()) as other:
        address = lab.hosts[1].addresses[IB]
        assert other.hosts[1].addresses[IB] == address
        here = Program(lab, 1, lambda: receive(address, 6002))
        there = Program(other, 1, lambda: receive(address, 6002))
        Program(lab, 0, lambda: send(address, 6002, 1000)).result()
        Program(other, 0, lambda: send(address, 6002, 2000)).result()
        assert (here.result(), there.result()) == ("1000", "2000")
        pids = [host.pid for host in other.hosts]
    assert all_gone(pids)
    assert transfer(lab, 0, 1, IB, 1000) > 0, "the first lab is still up"


def test_a_program_left_on_a_host_does_not_delay_the_end() -> None:
    with Lab.up(site()) as short:
        if short.isolation is Isolation.LOOPBACK:
            pytest.skip(short.reason)
        address = short.hosts[0].addresses[ETH]
        left = Program(short, 0, lambda: receive(address, 6003))
        Program(short, 1, lambda: connect(address, 6003).close() or "").result()
        pids = [host.pid for host in short.hosts]
    assert all_gone(pids)
    assert left.result() == "0"


def test_an_unprivileged_user_namespace_does_the_same() -> None:
    try:
        rootless = Lab.up(site(), isolation=Isolation.USER)
    except UnavailableError as error:
        pytest.skip(str(error.why))
    with rootless:
        assert rootless.isolation is Isolation.USER
        assert rootless.hosts[0].userns_path is not None
        before = rootless.counters(0)["ib0"]
        fast = quickest(rootless, 0, 1, IB, 2 * MIB)
        assert transfer(rootless, 2, 3, ROCE, 2 * MIB) / fast > 3
        assert (rootless.counters(0)["ib0"] - before).tx_bytes >= 2 * MIB
        who = Program(rootless, 0, lambda: f"{os.getuid()} {os.getgid()}").result()
        assert who == f"{os.getuid()} {os.getgid()}", "ids look the same on a host"


def test_a_user_without_rights_gets_a_lab(tmp_path: Path) -> None:
    """Only root can try this: drop to another user id, then bring the lab up and use it."""
    if os.getuid() != 0:
        pytest.skip("we are such a user already: the other tests ran without root")
    python = Path("/usr/bin/python3")
    probe = [str(python), "-c", "import sys; print(sys.version_info[:2])"]
    version = subprocess.run(probe, capture_output=True, text=True, check=False).stdout.strip()
    if version != str(sys.version_info[:2]):
        pytest.skip(f"no Python {sys.version_info[:2]} that another user may run")
    root = Path(__file__).parents[2]
    places = [str(root / "src"), str(root), *[p for p in sys.path if p.endswith("site-packages")]]
    script = (
        "from holmes.lab.lab import Lab\n"
        "from holmes.hardware.site import Fabric\n"
        "from tests.lab.hosts import site, transfer\n"
        "with Lab.up(site()) as lab:\n"
        "    print(lab.isolation, lab.reason or 'shaped')\n"
        "    if lab.shaped:\n"
        "        print(transfer(lab, 0, 1, Fabric.INFINIBAND, 1000) > 0)\n"
    )
    done = subprocess.run(
        [str(python), "-c", script],
        env={"PYTHONPATH": ":".join(places), "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path.anchor,
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "ModuleNotFoundError" in done.stderr or "PermissionError" in done.stderr:
        pytest.skip("another user cannot read this checkout or its packages")
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("loopback"):
        pytest.skip(done.stdout)
    assert done.stdout.split() == ["user", "shaped", "True"]


def test_loopback_says_that_and_why_links_are_not_shaped() -> None:
    with Lab.up(site(), isolation=Isolation.LOOPBACK) as plain:
        assert not plain.shaped
        assert plain.reason.startswith("links are not shaped because")
        assert plain.hosts[3].addresses == {ROCE: "127.0.0.1", ETH: "127.0.0.1"}
        assert plain.hosts[3].interfaces == {ROCE: "lo", ETH: "lo"}
        assert plain.counters(0) == {}
        assert transfer(plain, 0, 3, ETH, 1000, port=46_321) > 0
        with pytest.raises(UnavailableError):
            plain.set_rate(0, IB, 1.0)
        with pytest.raises(UnavailableError):
            plain.link_down(0, IB)


def test_a_refusal_falls_back_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from holmes.lab import lab as module
    from holmes.lab.client import RefusedError, SwitchClient

    def refuse(*_: object, user: bool, **__: object) -> SwitchClient:
        raise RefusedError(f"the kernel said no (user namespace: {user})")

    monkeypatch.setattr(module.SwitchClient, "start", refuse)
    with Lab.up(site()) as plain:
        assert plain.isolation is Isolation.LOOPBACK
        assert "False" in plain.reason and "True" in plain.reason, "both ways were tried"
    with pytest.raises(UnavailableError, match="the kernel said no") as caught:
        Lab.up(site(), isolation=Isolation.ROOT)
    assert caught.value.exit_code == 69


def test_a_bad_site_is_refused_before_anything_starts() -> None:
    bad = site().model_copy(
        update={"rehearsal": site().rehearsal.model_copy(update={"rates": {}, "scale": 1.0})}
    )  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="Gbit/s in the rehearsal"):
        Lab.up(bad)


def test_down_twice_and_use_after_it() -> None:
    gone = Lab.up(site())
    if gone.isolation is Isolation.LOOPBACK:
        pytest.skip(gone.reason)
    gone.down()
    gone.down()
    assert all_gone([host.pid for host in gone.hosts])
    with pytest.raises(UnavailableError):
        gone.counters(0)
    with pytest.raises(UnavailableError):
        gone.set_rate(0, IB, 1.0)


def test_a_killed_switch_surfaces_as_an_error() -> None:
    with Lab.up(site()) as broken:
        if broken.isolation is Isolation.LOOPBACK:
            pytest.skip(broken.reason)
        status = Path(f"/proc/{broken.hosts[0].pid}/stat").read_text()
        os.kill(int(status.rpartition(")")[2].split()[1]), signal.SIGKILL)
        assert all_gone([host.pid for host in broken.hosts]), "hosts go with their switch"
        with pytest.raises(UnavailableError, match="has ended"):
            broken.set_rate(0, IB, 1.0)


def test_capabilities_agree_with_a_lab(lab: Lab) -> None:
    found = capabilities()
    assert found.isolation is lab.isolation
    assert found.shaped
