from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from holmes.errors import DataError
from holmes.events.span import Span
from holmes.runtime.monitor.board import Board, Phase, read_board
from holmes.runtime.monitor.flight import FlightRecorder, read_flight
from holmes.runtime.monitor.meter import Arrival, Meter
from holmes.runtime.monitor.wires import Connections, Wire


def test_a_board_shows_what_is_under_way(tmp_path: Path) -> None:
    path = tmp_path / "monitor" / "rank-3.board"
    board = Board(path, 3, ["compute", "comm:world"])
    board.set_operation(5)
    board.step(7, Phase.INSIDE)
    board.turn("compute", 11)
    board.turn("compute", 11)
    board.turn("comm:world", 12)
    seen = read_board(path)
    assert (seen.rank, seen.pid, seen.step, seen.inside) == (3, os.getpid(), 7, True)
    assert seen.operation == 5
    compute, world = seen.slots
    assert not compute.busy and compute.instruction == 11 and compute.step == 7
    assert world.busy and world.instruction == 12
    before = seen.progress
    board.turn("comm:world", 12)
    assert read_board(path).progress != before


@pytest.mark.parametrize("content", [b"", b"\0" * 4, b"\1" + b"\0" * 7 + b"{", b"\xff" * 9000])
def test_what_is_no_board_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rank-0.board"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_board(path)


def test_publishing_an_instruction_costs_microseconds(tmp_path: Path) -> None:
    board = Board(tmp_path / "rank-0.board", 0, ["compute"])
    before = time.thread_time()
    for _ in range(2000):
        board.turn("compute", 1)
    assert (time.thread_time() - before) / 2000 < 50e-6


def span(number: int, stop: int) -> Span:
    return Span(number, 0, 0, "compute", "forward", 0, 0, 0, stop)


def test_a_flight_record_comes_back(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path, 0)
    part = Arrival(1, 10, 20, 4096, True)
    wire = Wire("eth0", "10.0.0.1", "10.0.0.2", 7, 1)
    assert recorder.write(4, [span(1, 30), span(2, 50)], {"comm:g": [part]}, applied=True) == 50
    assert recorder.write(5, [span(1, 30)], {"comm:g": []}, applied=False, wires=[wire]) == 50
    first, second = read_flight(tmp_path, 0)
    assert first.spans == {1: (0, 30), 2: (0, 50)} and first.arrivals == {"comm:g": (part,)}
    assert (first.step, second.step, second.applied) == (4, 5, False)
    assert (first.wires, second.wires) == ((), (wire,))


def test_connections_count_what_was_sent_since_the_last_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holmes.runtime.monitor.wires.REST_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.bind(("127.0.0.2", 0))
        client.connect(server.getsockname())
        peer, _ = server.accept()
        with peer:
            client.sendall(b"before")
            connections = Connections()
            for _ in range(3):
                client.sendall(b"x")
            peer.sendall(b"y")
            there = Wire("", "127.0.0.2", "127.0.0.1", 3, 0)
            back = Wire("lo", "127.0.0.1", "127.0.0.2", 1, 0)
            assert set(connections.since()) == {there, back}
            assert connections.since() == ()
            client.sendall(b"z")
            assert [wire.segments for wire in connections.since()] == [1]


def test_a_flight_record_keeps_to_its_size(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path, 0)
    many = [span(number, 10**15) for number in range(2000)]
    for step in range(100):
        recorder.write(step, many, {}, applied=True)
    kept = read_flight(tmp_path, 0)
    assert kept[-1].step == 99 and 20 < len(kept) < 100
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 << 20


@pytest.mark.parametrize("line", ['{"step": 1}', '{"step": 1, "applied": 1, "spans": [1]}', "[]"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rank-0.jsonl"
    path.write_text(line + "\n{}\n")
    with pytest.raises(DataError) as refused:
        read_flight(tmp_path, 0)
    assert f"{path}:1" in refused.value.text()


def test_the_first_peer_waited_for_changes_each_time() -> None:
    meter = Meter()
    firsts = [meter.order([0, 2, 3])[0] for _ in range(6)]
    assert sorted(firsts) == [0, 0, 2, 2, 3, 3]
    now = time.monotonic_ns()
    meter.note(2, now, now, 8, first=False)
    meter.note(3, now, now - 10**9, 8, first=False)
    assert [(part.peer, part.exact) for part in meter.drain()] == [(2, False), (3, True)]
    assert meter.drain() == []
