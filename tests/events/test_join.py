"""Joining by id, and the split of a step into computing, moving bytes and waiting."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from holmes.events.join import by_operation, join, mean_shares, shares, wire_starts
from holmes.events.span import Span, Timeline

SEND = Span(1, 0, 0, "comm:pipeline.0-1.down", "send", 0, 0, 10, 30, 100)
RECEIVE = Span(2, 1, 0, "comm:pipeline.0-1.down", "receive", 1, 0, 0, 30, 100)
FIRST = Span(0, 0, 0, "compute", "forward", 0, 0, 0, 10)
SECOND = Span(3, 1, 0, "compute", "forward", 1, 0, 30, 50)
STEP = (FIRST, SEND, RECEIVE, SECOND)


def later(span: Span, by: int, step: int = 4) -> Span:
    return replace(span, start=span.start + by, stop=span.stop + by, step=step)


def test_join_is_by_id_on_a_common_origin() -> None:
    measured = [later(s, 1000) for s in STEP if s.id != 1] + [later(replace(FIRST, id=9), 1000)]
    measured[0] = replace(measured[0], stop=measured[0].stop + 5)
    joined = join(Timeline("predicted", STEP), Timeline("measured", tuple(measured)))
    assert [pair.predicted.id for pair in joined.pairs] == [0, 2, 3]
    assert [pair.delta for pair in joined.pairs] == [5, 0, 0]
    assert joined.pairs[0].lateness == 5
    assert [s.id for s in joined.only_predicted] == [1]
    assert [s.id for s in joined.only_measured] == [9]


def test_join_takes_the_step_asked_for() -> None:
    two = (later(FIRST, 100, step=3), later(replace(FIRST, stop=70), 500, step=8))
    joined = join(Timeline("predicted", STEP), Timeline("measured", two), step=8)
    assert [pair.delta for pair in joined.pairs] == [60]


def test_a_transfer_starts_when_both_ends_are_there() -> None:
    starts = wire_starts(STEP)
    assert starts == {(0, 1): 10, (0, 2): 10}


def test_a_collective_starts_with_its_last_member_and_not_with_another_bucket() -> None:
    lane = "comm:data.s0"
    spans = [
        Span(1, 0, 0, lane, "reduce_scatter", 0, None, 0, 20, 8, "gradients.0"),
        Span(2, 1, 0, lane, "reduce_scatter", 0, None, 15, 20, 8, "gradients.0"),
        Span(3, 0, 0, lane, "reduce_scatter", 0, None, 20, 40, 8, "gradients.1"),
        Span(4, 1, 0, lane, "reduce_scatter", 0, None, 22, 40, 8, "gradients.1"),
    ]
    assert wire_starts(spans) == {(0, 1): 15, (0, 2): 15, (0, 3): 22, (0, 4): 22}


def test_shares_split_the_step_of_each_rank() -> None:
    split = shares(Timeline("measured", STEP))
    assert (split[0].compute, split[0].transfer, split[0].waiting) == (10, 20, 20)
    assert (split[1].compute, split[1].transfer, split[1].waiting) == (20, 20, 10)
    assert mean_shares(split.values()).compute == 15
    assert mean_shares([]).total == 0
    assert shares(Timeline("measured")) == {}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20), st.booleans()), min_size=1))
def test_shares_add_up_to_the_makespan(cells: list[tuple[int, int, bool]]) -> None:
    spans = tuple(
        Span(i, i % 3, 0, "compute" if c else f"comm:g{i}", "x", 0, None, a, a + n)
        for i, (a, n, c) in enumerate(cells)
    )
    timeline = Timeline("measured", spans)
    for split in shares(timeline).values():
        assert split.total == timeline.makespan
        assert min(split.compute, split.transfer, split.waiting) >= 0


def test_operations_are_compared_by_their_time_on_the_wire() -> None:
    slower = [replace(later(s, 7), stop=s.stop + 7 + (4 if s.op == "send" else 0)) for s in STEP]
    rows = {
        row.op: row
        for row in by_operation(
            join(Timeline("predicted", STEP), Timeline("measured", tuple(slower)))
        )
    }
    assert rows["forward"].count == 2
    assert rows["forward"].predicted == rows["forward"].measured == 15
    assert (rows["send"].predicted, rows["send"].measured) == (20, 24)
    assert rows["receive"].predicted == 20
