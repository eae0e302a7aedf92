from __future__ import annotations

from holmes.launch.watch import Deadlines, Watch
from holmes.launch.wire import error_message

LOST = {"kind": "error", "what": "closed", "peer_lost": True}
OWN = {"kind": "error", "what": "bug", "peer_lost": False}


def watch(silence: float | None = None) -> Watch:
    return Watch(Deadlines(10.0, silence, grace=2.0), began=100.0, pending={0, 1, 2})


def test_over_when_all_have_answered() -> None:
    seen = watch()
    for rank in (0, 1, 2):
        assert not seen.over(101.0)
        seen.hear(rank, {"kind": "result", "value": {"r": rank}}, 101.0)
    assert seen.over(101.0) and seen.cause() is None and seen.results[2] == {"r": 2}


def test_a_death_ends_the_wait_at_once() -> None:
    seen = watch()
    seen.hear(0, LOST, 101.0)
    assert not seen.over(101.5)
    seen.lose(2, 101.5)
    assert seen.over(101.5) and seen.dead == [2]


def test_after_an_error_the_others_have_a_grace() -> None:
    seen = watch()
    seen.hear(1, OWN, 103.0)
    assert not seen.over(104.9)
    assert seen.over(105.0)


def test_the_cause_is_the_first_error_that_blames_no_peer() -> None:
    seen = watch()
    for rank, message in ((0, LOST), (1, OWN), (2, OWN)):
        seen.hear(rank, message, 101.0)
    assert seen.cause() == (1, OWN)


def test_when_all_blame_a_peer_the_first_is_told() -> None:
    seen = watch()
    seen.hear(2, LOST, 101.0)
    seen.hear(0, LOST, 101.1)
    assert seen.cause() == (2, LOST)


def test_the_deadline_names_who_is_left() -> None:
    seen = watch()
    seen.hear(1, {"kind": "result", "value": {}}, 101.0)
    assert not seen.over(109.9)
    assert seen.over(110.0) and seen.silent(110.0) == (10.0, [0, 2])


def test_silence_is_counted_from_the_last_report() -> None:
    seen = watch(silence=3.0)
    for rank in (0, 2):
        seen.hear(rank, {"kind": "progress", "value": {"step": 1}}, 102.0)
    assert not seen.over(102.9)
    assert seen.over(103.0)
    assert seen.silent(103.0) == (3.0, [1])
    assert seen.last == {0: {"step": 1}, 2: {"step": 1}}


def test_errors_that_only_tell_of_a_lost_peer() -> None:
    assert error_message(ConnectionResetError("x"))["peer_lost"]
    assert error_message(RuntimeError("[pair.cc:1] Connection closed by peer [::1]"))["peer_lost"]
    assert not error_message(ValueError("shapes differ"))["peer_lost"]
    try:
        try:
            raise ConnectionResetError("reset")
        except ConnectionResetError as inner:
            raise RuntimeError("instruction 7 failed") from inner
    except RuntimeError as outer:
        assert error_message(outer)["peer_lost"]
