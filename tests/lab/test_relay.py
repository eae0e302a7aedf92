"""The relay of the lab, measured by datagrams: what is lost, how late they come, in what order."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from holmes.errors import ConfigError, UnavailableError
from holmes.hardware.site import Fabric
from holmes.lab.lab import Isolation, Lab
from holmes.lab.relay import DEVICE, Impairment, Passed
from tests.lab.hosts import Program, site, transfer

ETH = Fabric.ETHERNET
PORT = 7000
SLACK = 0.020
"""Seconds that a busy machine may add to the median of a round trip."""
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not os.access(DEVICE, os.R_OK | os.W_OK), reason=f"no {DEVICE} here"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(site()) as up:
        if up.isolation is Isolation.LOOPBACK:
            pytest.skip(up.reason)
        yield up


@pytest.fixture(autouse=True)
def repaired(lab: Lab) -> Iterator[None]:
    yield
    lab.impair(1, ETH, Impairment())
    lab.impair_link(0, Impairment())


def arrived(lab: Lab, source: int, goal: int, count: int) -> list[int]:
    """Which of ``count`` datagrams come, in the order in which they come."""
    address = lab.hosts[goal].addresses[ETH]

    def listen() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((address, PORT))
            one.settimeout(1.5)
            found = []
            try:
                while True:
                    found.append(one.recv(16).decode())
            except TimeoutError:
                return " ".join(found)

    def speak() -> str:
        time.sleep(0.2)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            for number in range(count):
                one.sendto(str(number).encode(), (address, PORT))
                if number % 50 == 49:  # the receiver's buffer holds some 200
                    time.sleep(0.01)
        return ""

    listener, speaker = Program(lab, goal, listen), Program(lab, source, speak)
    speaker.result()
    return [int(word) for word in listener.result().split()]


def round_trips(lab: Lab, source: int, goal: int, count: int = 30) -> list[float]:
    """Seconds of echoed datagrams, one after the other."""
    address = lab.hosts[goal].addresses[ETH]

    def echo() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((address, PORT))
            one.settimeout(10)
            for _ in range(count):
                data, back = one.recvfrom(16)
                one.sendto(data, back)
        return ""

    def ask() -> str:
        time.sleep(0.2)
        found = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(10)
            for number in range(count):
                begin = time.monotonic()
                one.sendto(str(number).encode(), (address, PORT))
                one.recv(16)
                found.append(str(time.monotonic() - begin))
        return " ".join(found)

    server, client = Program(lab, goal, echo), Program(lab, source, ask)
    words = client.result().split()
    server.result()
    return [float(word) for word in words]


def devices(lab: Lab) -> int:
    """TAP devices that the lab's switch holds open."""
    folder = Path(f"/proc/{parent(lab.hosts[0].pid)}/fd")
    return sum(str(one.readlink()) == DEVICE for one in folder.iterdir())


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_share_that_is_asked_for_is_lost(lab: Lab) -> None:
    lab.impair(1, ETH, Impairment(loss=0.2))
    came = arrived(lab, 0, 1, 2000)
    passed = lab.impair(1, ETH, Impairment())
    assert passed.frames - 2000 in range(20)  # a few are the kernel's own, of a new device
    assert passed.refused == 0
    assert len(came) <= 2000 - passed.lost
    assert abs(len(came) / 2000 - 0.8) < 0.045  # five standard deviations of the draw


def test_what_is_late_is_as_late_as_asked(lab: Lab) -> None:
    lab.impair(1, ETH, Impairment(delay=0.010))
    there = round_trips(lab, 0, 1)
    assert min(there) >= 0.020 and median(there) < 0.020 + SLACK


def test_jitter_spreads_and_keeps_the_order(lab: Lab) -> None:
    lab.impair(1, ETH, Impairment(jitter=0.020))
    times = sorted(round_trips(lab, 0, 1, 60))
    assert 0.010 < median(times) < 0.020 + SLACK  # two uniform draws: 20 ms in the middle
    assert times[-5] - times[5] > 0.010
    came = arrived(lab, 0, 1, 300)
    assert came == sorted(came) and len(came) == 300


def test_a_link_is_late_for_those_who_cross_it(lab: Lab) -> None:
    lab.impair_link(0, Impairment(delay=0.010))
    assert min(round_trips(lab, 0, 2)) >= 0.020
    assert median(round_trips(lab, 0, 1)) < 0.010


def test_streams_get_through_a_relay_at_the_rate_of_the_card(lab: Lab) -> None:
    size = 4 << 20
    lab.impair(1, ETH, Impairment(delay=1e-6))
    seconds = min(transfer(lab, 0, 1, ETH, size) for _ in range(2))
    assert 0.9 < seconds * 0.2e9 / 8 / size < 2.0


def test_without_a_fault_there_is_no_relay(lab: Lab) -> None:
    assert devices(lab) == 0
    assert lab.impair(1, ETH, Impairment(loss=0.5)) == Passed()
    assert devices(lab) == 2
    lab.impair(1, ETH, Impairment())
    assert devices(lab) == 0
    assert arrived(lab, 0, 1, 100) == list(range(100))


def test_what_is_not_there_cannot_be_impaired(lab: Lab) -> None:
    with pytest.raises(ConfigError):
        lab.impair(0, Fabric.ROCE, Impairment(loss=0.1))
    with pytest.raises(ConfigError):
        lab.impair_link(7, Impairment(loss=0.1))
    with (
        Lab.up(site(), isolation=Isolation.LOOPBACK) as plain,
        pytest.raises(UnavailableError),
    ):
        plain.impair(0, ETH, Impairment(loss=0.1))
