"""Classes and places from records made by rule, so that the truth is known."""

from __future__ import annotations

import pytest

from holmes.diagnose.slow import why_slow
from tests.diagnose.cases import WireFactor, records

FAULT = 20


def late(step: int, factor: float) -> float:
    return factor if step >= FAULT else 1.0


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_a_healthy_run_raises_no_alarm(noise: float) -> None:
    assert why_slow(records(noise=noise)).cls == "none"


def test_what_slows_all_alike_is_nobodys_fault() -> None:
    assert why_slow(records(compute=lambda step, rank: late(step, 1.8))).cls == "none"


@pytest.mark.parametrize("rank", range(4))
def test_a_slow_rank_is_named(rank: int) -> None:
    def compute(step: int, one: int) -> float:
        return late(step, 1.7) if one == rank else 1.0

    verdict = why_slow(records(compute=compute))
    assert (verdict.cls, verdict.rank, verdict.host) == ("slow-compute", rank, f"a-{rank}")
    assert verdict.confidence > 0.8


@pytest.mark.parametrize(
    ("cls", "wire"),
    [
        ("slow-link", lambda step, a, b: late(step, 2.0) if 2 in (a, b) else 1.0),
        ("slow-sender", lambda step, a, b: late(step, 2.0) if a == 2 else 1.0),
        ("slow-receiver", lambda step, a, b: late(step, 2.0) if b == 2 else 1.0),
    ],
)
def test_a_slow_card_is_named_with_its_direction(cls: str, wire: WireFactor) -> None:
    verdict = why_slow(records(wire=wire))
    assert (verdict.cls, verdict.host, verdict.nic) == (cls, "a-2", "ethernet")
    assert verdict.confidence > 0.8 and verdict.rank is None


def test_packet_loss_shows_in_the_tail() -> None:
    def wire(step: int, source: int, target: int) -> float:
        return 22.0 if step >= FAULT and step % 4 == 0 and 1 in (source, target) else 1.0

    verdict = why_slow(records(wire=wire))
    assert (verdict.cls, verdict.host) == ("lossy-link", "a-1")


def test_one_slow_pair_is_not_blamed_on_one_of_its_ends() -> None:
    def wire(step: int, source: int, target: int) -> float:
        return late(step, 2.0) if {source, target} == {0, 1} else 1.0

    verdict = why_slow(records(wire=wire))
    assert (verdict.cls, verdict.host, verdict.link) == ("slow-link", None, "a-0-a-1")


def test_too_few_steps_say_so() -> None:
    verdict = why_slow(records(steps=6))
    assert verdict.cls == "none" and "too few" in verdict.evidence[0]
