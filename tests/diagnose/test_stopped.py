"""Scenes in which nothing moves: who is blamed."""

from __future__ import annotations

from dataclasses import replace

from holmes.diagnose.records import Places, order_of_plan
from holmes.diagnose.sockets import Connection
from holmes.diagnose.stopped import Scene, waits, why_stopped
from holmes.runtime.monitor.board import Phase, Reading, Slot
from holmes.schedule.instruction import COLLECTIVE_OPS, Op
from tests.diagnose.cases import LANE, plan

ORDER = order_of_plan(plan())
PLACES = Places(plan())
CARDS = {f"10.0.0.{i}": (f"a-{i}", "ethernet") for i in range(4)}


def of(rank: int, *ops: Op) -> int:
    """The first instruction of a rank with one of these operations."""
    mine = (i for i in ORDER.instructions if ORDER.rank_of[i] == rank)
    return next(i for i in mine if ORDER.instructions[i].op in ops)


def board(rank: int, lane: str | None, *ops: Op, step: int = 5) -> Reading:
    """A rank inside a step, busy on one lane, or on none."""
    slots = [Slot("compute", 0, 0, 0, -1), Slot(LANE, 0, 0, 0, -1)]
    slots = [Slot(s.lane, 1, of(rank, *ops), 0, step) if s.lane == lane else s for s in slots]
    return Reading(rank, 100 + rank, step, Phase.INSIDE, 1000, tuple(slots))


def exchanging() -> dict[int, Reading]:
    return {rank: board(rank, LANE, *COLLECTIVE_OPS) for rank in range(4)}


def test_a_stopped_process_is_frozen() -> None:
    scene = Scene(exchanging(), states={0: "alive", 1: "stopped", 2: "alive", 3: "alive"})
    verdict = why_stopped(scene, ORDER, PLACES)
    assert (verdict.cls, verdict.rank, verdict.host) == ("frozen", 1, "a-1")


def test_a_rank_that_computes_while_all_wait_for_it_is_frozen() -> None:
    scene = Scene({**exchanging(), 2: board(2, "compute", Op.FORWARD)})
    assert waits(scene.boards, ORDER)[0] == {2}
    verdict = why_stopped(scene, ORDER, PLACES)
    assert (verdict.cls, verdict.rank) == ("frozen", 2)
    assert any("rank 0 waits for rank 2" in line for line in verdict.evidence)


def test_a_rank_between_instructions_is_frozen() -> None:
    verdict = why_stopped(Scene({**exchanging(), 3: board(3, None)}), ORDER, PLACES)
    assert (verdict.cls, verdict.rank) == ("frozen", 3)


def test_a_rank_in_an_earlier_step_has_not_begun() -> None:
    behind = {**exchanging(), 1: board(1, LANE, *COLLECTIVE_OPS, step=4)}
    assert waits(behind, ORDER)[0] == {1}
    assert waits(behind, ORDER)[1] == set()


def stuck(*pairs: tuple[int, int]) -> dict[str, tuple[Connection, ...]]:
    return {
        f"a-{a}": tuple(
            Connection(f"10.0.0.{a}", f"10.0.0.{b}", 4000, 5) for x, b in pairs if x == a
        )
        for a in range(4)
    }


def test_a_cut_card_is_what_all_stuck_connections_share() -> None:
    scene = Scene(exchanging(), {}, CARDS, stuck((0, 2), (1, 2), (3, 2), (2, 0)))
    verdict = why_stopped(scene, ORDER, PLACES)
    assert (verdict.cls, verdict.host, verdict.nic) == ("cut-link", "a-2", "ethernet")
    assert verdict.confidence > 0.8


def test_one_stuck_pair_leaves_two_cards_unless_a_carrier_is_gone() -> None:
    scene = Scene(exchanging(), {}, CARDS, stuck((0, 2), (2, 0)))
    verdict = why_stopped(scene, ORDER, PLACES)
    assert (verdict.cls, verdict.host, verdict.link) == ("cut-link", None, "a-0-a-2")
    assert verdict.confidence < 0.5
    sure = why_stopped(replace(scene, no_carrier=(("a-2", "ethernet"),)), ORDER, PLACES)
    assert (sure.host, sure.confidence) == ("a-2", 0.99)


def test_all_there_and_a_working_network_is_software() -> None:
    scene = Scene(exchanging(), {}, CARDS, {})
    assert why_stopped(scene, ORDER, PLACES).cls == "software"


def test_ranks_that_wait_in_a_circle_are_in_a_deadlock() -> None:
    first = {rank: board(rank, LANE, Op.REDUCE_SCATTER) for rank in (0, 1)}
    reduces = [i for i, x in ORDER.instructions.items() if x.op is Op.REDUCE_SCATTER]
    last = {
        rank: replace(
            first[0],
            rank=rank,
            slots=(
                Slot("compute", 0, 0, 0, -1),
                Slot("comm:world", 1, of(rank, Op.ALL_REDUCE), 0, 5),
            ),
        )
        for rank in (2, 3)
    }
    assert reduces
    assert why_stopped(Scene({**first, **last}), ORDER, PLACES).cls == "deadlock"


def test_all_in_a_barrier_on_a_cut_card_is_a_cut_link() -> None:
    meeting = {r: replace(b, phase=Phase.BEFORE) for r, b in exchanging().items()}
    gone = Scene(meeting, {}, CARDS, stuck((0, 2), (1, 2)), (("a-2", "ethernet"),))
    verdict = why_stopped(gone, ORDER, PLACES)
    assert (verdict.cls, verdict.host) == ("cut-link", "a-2")
    late = {**meeting, 1: replace(board(1, "compute", Op.FORWARD), step=4)}
    assert why_stopped(Scene(late), ORDER, PLACES).rank == 1
