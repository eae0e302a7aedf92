"""Two hosts with two paths on the real kernel: which port goes where, flows, a path that dies."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence

import pytest

from holmes.errors import ConfigError, HolmesError, UnavailableError
from holmes.hardware.site import Fabric
from holmes.lab.paths import RECEIVER, SENDER, PathLab, Program, address, interface, wire_paths
from holmes.lab.wiring import wiring_from
from holmes.runtime.paths.connection import Route
from holmes.runtime.paths.ports import PROBE_BYTES, find_ports, path_of
from holmes.runtime.paths.receiver import Receiver
from holmes.runtime.paths.sender import Sender

MIB = 1 << 20
GBIT_S = 0.4
PORT = 7000
ELSEWHERE = 0.5
"""Of a flow: less are headers and what is sent again on busy cores, more would be a flow."""
Ports = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def lab() -> Iterator[PathLab]:
    try:
        up = PathLab.up([GBIT_S, GBIT_S])
    except UnavailableError as error:
        pytest.skip(error.text())
    with up:
        up.start(RECEIVER, lambda: Receiver(address(RECEIVER), PORT).serve(300))
        yield up


@pytest.fixture(scope="module")
def route(lab: PathLab) -> Route:
    return Route(address(SENDER), address(RECEIVER), PORT, lab.paths)


@pytest.fixture(scope="module")
def ports(lab: PathLab, route: Route) -> Ports:
    found = {}
    for _ in range(20):  # the receiver may not listen yet
        found = lab.start(SENDER, lambda: find_ports(route, 4)).result()
        if all(found.values()):
            break
    return dict(found)


def start(
    lab: PathLab, route: Route, ports: Ports, used: Sequence[int], mib: int, *, steer: bool = True
) -> Program:
    sizes = [mib * MIB] * len(used)
    return lab.start(SENDER, lambda: Sender(route, ports, steer=steer).send(sizes, used, 30.0))


pytestmark = pytest.mark.lab


def test_every_port_leaves_by_the_card_that_was_found(
    lab: PathLab, route: Route, ports: Ports
) -> None:
    for name, found in ports.items():
        assert len(found) >= 4
        before = lab.counters(SENDER)
        assert lab.start(SENDER, lambda port=found[-1]: path_of(route, port)).result() == name
        grown = {card: lab.counters(SENDER)[card] - before[card] for card in lab.paths}
        assert [card for card in lab.paths if grown[card].tx_bytes >= PROBE_BYTES] == [name]


@pytest.mark.parametrize("split", [(3, 0), (2, 1)])
def test_bytes_go_where_the_ports_say(
    lab: PathLab, route: Route, ports: Ports, split: tuple[int, int]
) -> None:
    used = [port for name, n in zip(lab.paths, split, strict=True) for port in ports[name][:n]]
    before = lab.counters(SENDER)
    sent = start(lab, route, ports, used, 4, steer=False).result()
    for name, flows in zip(lab.paths, split, strict=True):
        grown = (lab.counters(SENDER)[name] - before[name]).tx_bytes
        assert flows * 4 * MIB <= grown < (flows + ELSEWHERE) * 4 * MIB
    assert sent.moves == ()
    assert sent.seconds >= 0.9 * max(split) * 4 * MIB * 8 / (GBIT_S * 1e9)


def test_a_path_that_dies_is_left_and_nothing_is_lost(
    lab: PathLab, route: Route, ports: Ports
) -> None:
    used = [ports[lab.paths[0]][0], *ports[lab.paths[1]][:2]]
    program = start(lab, route, ports, used, 24)
    time.sleep(0.5)
    lab.path_down(1)
    try:
        sent = program.result()
    finally:
        lab.path_up(1)
    (death,) = [move for move in sent.moves if "acknowledged" in move.reason]
    assert death.path == interface(1) and {1, 2} <= set(death.flows)
    assert sent.paths == (interface(0),) * 3  # the receiver's checksums were compared


def test_flows_are_spread_anew_when_a_path_slows(lab: PathLab, route: Route, ports: Ports) -> None:
    """An eighth of a rate is not death, but most of what is left goes another way."""
    names, before = lab.paths, lab.counters(SENDER)

    def sent_by(path: int) -> int:
        return (lab.counters(SENDER)[names[path]] - before[names[path]]).tx_bytes

    used = [*ports[names[0]][:2], *ports[names[1]][:2]]
    program = start(lab, route, ports, used, 32)
    while sent_by(1) < 12 * MIB:
        time.sleep(0.02)
    lab.set_rate(1, GBIT_S / 8)
    try:
        sent = program.result()
    finally:
        lab.set_rate(1, GBIT_S)
    slowed = [move for move in sent.moves if move.path == interface(1)]
    assert {flow for move in slowed for flow in move.flows} & {2, 3}
    assert sent_by(1) < 0.8 * 2 * 32 * MIB and sent_by(0) > 1.2 * 2 * 32 * MIB


def test_a_probe_under_traffic_may_be_in_doubt_but_not_wrong(
    lab: PathLab, route: Route, ports: Ports
) -> None:
    first, second = lab.paths
    program = start(lab, route, ports, ports[first][:1], 24)
    found = lab.start(SENDER, lambda: path_of(route, ports[second][2])).result()
    program.result()
    assert found in {second, None}


def test_flows_that_may_not_move_wait_in_vain(lab: PathLab, route: Route, ports: Ports) -> None:
    used = [ports[lab.paths[0]][1], ports[lab.paths[1]][3]]
    sizes = [MIB, MIB]
    lab.path_down(1)
    try:
        program = lab.start(
            SENDER, lambda: Sender(route, ports, steer=False).send(sizes, used, 1.5)
        )
        with pytest.raises(HolmesError, match="1 of 2 flows") as raised:
            program.result()
    finally:
        lab.path_up(1)
    assert interface(1) in raised.value.text()


def test_wiring_of_paths_survives_the_trip_to_the_switch() -> None:
    wiring = wire_paths([0.1, 0.2, 0.3])
    assert wiring_from(json.loads(json.dumps(dataclasses.asdict(wiring)))) == wiring
    assert all(card.fabric is Fabric.ETHERNET for cards in wiring.hosts for card in cards)
    assert wiring.spreads[0].peer == wiring.spreads[1].address


@pytest.mark.parametrize("rates", [[], [0.1] * 99, [0.1, 100.0]])
def test_paths_that_cannot_be_are_refused(rates: list[float]) -> None:
    with pytest.raises(ConfigError):
        wire_paths(rates)
