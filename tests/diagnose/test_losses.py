"""Retransmissions made by rule: which place is named, and when none is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from holmes.diagnose.change import Windows, windows
from holmes.diagnose.losses import sent, why_lossy
from holmes.diagnose.records import Records
from holmes.diagnose.slow import why_slow
from holmes.runtime.monitor.wires import Wire
from tests.diagnose.cases import records

STEPS = 24
SEGMENTS = 200
Loss = Callable[[int, int, int], float]
"""(step, source, target) -> probability."""


def lossy(loss: Loss, seed: int = 0, card: str = "eth0") -> tuple[Records, Windows]:
    """Records in which every rank sends the same to every other, a step."""
    draw = random.Random(seed)
    made = records(steps=STEPS)
    steps = {
        rank: {
            step: replace(
                one,
                wires=tuple(
                    Wire(
                        card,
                        f"10.0.0.{rank}",
                        f"10.0.0.{peer}",
                        SEGMENTS,
                        sum(draw.random() < loss(step, rank, peer) for _ in range(SEGMENTS)),
                    )
                    for peer in range(4)
                    if peer != rank
                ),
            )
            for step, one in found.items()
        }
        for rank, found in made.steps.items()
    }
    compared = windows(made.complete)
    assert compared is not None
    return replace(made, steps=steps), compared


def late(share: float, *hit: tuple[int, int]) -> Loss:
    """Some edges lose from the middle on."""
    return lambda step, source, target: (
        share if step >= STEPS // 2 and (source, target) in hit else 0.0
    )


CARD = [(2, peer) for peer in (0, 1, 3)] + [(peer, 2) for peer in (0, 1, 3)]


@pytest.mark.parametrize("seed", range(5))
def test_a_card_that_loses_is_named(seed: int) -> None:
    made, compared = lossy(late(0.01, *CARD), seed)
    verdict = why_lossy(made, compared)
    assert verdict is not None
    assert (verdict.cls, verdict.host, verdict.nic) == ("lossy-link", "a-2", "ethernet")
    assert verdict.confidence > 0.9
    assert why_slow(made) == verdict


def test_the_two_hosts_between_which_it_loses_are_named() -> None:
    verdict = why_lossy(*lossy(late(0.01, (1, 3), (3, 1))))
    assert verdict is not None
    assert (verdict.host, verdict.link, verdict.nic) == (None, "a-1-a-3", "ethernet")


@pytest.mark.parametrize(
    "loss",
    [
        late(0.0, *CARD),
        late(0.0005, *CARD),
        lambda step, source, target: 0.01 if (source, target) in CARD else 0.0,
        lambda step, source, target: 0.02 if step >= STEPS // 2 else 0.0,
        lambda step, source, target: 0.2 if step == STEPS - 2 and source + target == 1 else 0.0,
    ],
    ids=["nothing", "less than counts", "from the first step on", "everywhere", "one hiccup"],
)
def test_no_place_is_blamed_without_a_reason(loss: Loss) -> None:
    assert why_lossy(*lossy(loss)) is None


def test_connections_over_unknown_cards_and_addresses_are_left_out() -> None:
    made, compared = lossy(late(0.5, *CARD), card="docker0")
    assert sent(made, compared.after) == {}
    assert why_lossy(made, compared) is None


def test_sums_are_those_of_the_records() -> None:
    made, compared = lossy(late(0.01, *CARD))
    plain = sum(
        wire.retransmits
        for found in made.steps.values()
        for step in compared.after
        for wire in found[step].wires
    )
    assert sum(one.again for one in sent(made, compared.after).values()) == plain > 0
