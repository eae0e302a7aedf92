"""When a path stands out, from made-up totals."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest

from holmes.runtime.paths.connection import BLOCK, checksum, content
from holmes.runtime.paths.speeds import ALONE_LOOKS, STALL_LOOKS, Speeds

Speed = Callable[[int], int]
START = 20
"""The look at which something happens."""


def watched(
    a: Speed, b: Speed, looks: int, b_busy: int | None = None
) -> list[tuple[int, str, str]]:
    """What is said when paths get on by ``a(look)`` and ``b(look)`` bytes a look."""
    speeds, totals, said = Speeds(("a", "b")), {"a": 0, "b": 0}, []
    for look in range(looks):
        totals = {"a": totals["a"] + a(look), "b": totals["b"] + b(look)}
        busy = {"a", "b"} if b_busy is None or look < b_busy else {"a"}
        found = speeds.note(look * 0.1, totals, busy)
        if found is not None:
            said.append((look, *found))
    return said


def until(look: int, speed: int = 100, after: int = 0) -> Speed:
    return lambda now: speed if now < look else after


def test_steady_paths_raise_no_alarm() -> None:
    assert watched(until(99), until(99, 25), 50) == []


def test_what_slows_all_paths_alike_is_no_paths_fault() -> None:
    assert watched(until(START, after=10), until(START, 50, 5), 50) == []


def test_a_path_without_progress_is_dead_once_another_got_on() -> None:
    (look, path, reason), *more = watched(until(START), until(99), 50)
    assert (path, more) == ("a", []) and "acknowledged" in reason
    assert look - START in range(STALL_LOOKS - 1, STALL_LOOKS + 1)


def test_the_others_may_have_ended_meanwhile() -> None:
    (look, path, _), *_ = watched(until(START), until(START + 4), 60, b_busy=START + 4)
    assert path == "a" and look - START <= STALL_LOOKS


def test_where_none_gets_on_the_receiver_has_time() -> None:
    assert watched(until(START), until(START), START + ALONE_LOOKS - 2) == []
    assert watched(until(START), until(START), START + ALONE_LOOKS + 1)


def test_a_slow_path_is_measured_against_its_own_best() -> None:
    speeds, total, said = Speeds(("a", "b")), 0, []
    for look in range(40):
        total += 100 if look < START else 20
        if found := speeds.note(look * 0.1, {"a": total, "b": look * 50}, {"a", "b"}):
            said.append(found[0])
            speeds.restart()
    assert said and set(said) == {"a"}
    assert speeds.rate("a") == pytest.approx(200) and speeds.rate("b") == pytest.approx(500)


def test_rates_that_nobody_measured_are_as_given_or_alike() -> None:
    speeds = Speeds(("a", "b", "c"), {"a": 5.0})
    speeds.dead("b")
    assert [speeds.rate(path) for path in "abc"] == [5.0, 0.0, 1.0]


@pytest.mark.parametrize("cut", [1, BLOCK - 1, BLOCK, BLOCK + 7])
def test_a_flow_has_the_same_bytes_wherever_it_is_cut(cut: int) -> None:
    size = 2 * BLOCK
    parts = [(0, min(cut, BLOCK)), (min(cut, BLOCK), cut - min(cut, BLOCK)), (cut, BLOCK // 2)]
    joined = b"".join(content(offset, length) for offset, length in parts)
    whole = content(0, BLOCK) + content(BLOCK, BLOCK)
    assert joined == whole[: len(joined)]
    assert checksum(size) == zlib.crc32(whole)
