"""What crosses a cut between stages that are divided differently."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holmes.schedule.transfers import Division, Interval, transfers

UNIT = 4
"""Bytes of the smallest part of a sample."""


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Division, Division, int]:
    """Two stages with the same samples, and how many parts a sample has."""
    upper = [draw(st.integers(0, 4)) for _ in range(draw(st.integers(1, 5)))]
    replicas = draw(st.integers(1, 5))
    total = sum(upper)
    borders = sorted(draw(st.integers(0, total)) for _ in range(replicas - 1))
    lower = np.diff([0, *borders, total]).tolist()
    tp = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 4), (3, 2), (4, 4)]))
    return Division(tuple(upper), tp[0]), Division(tuple(lower), tp[1]), math.lcm(*tp)


def held(division: Division, parts: int) -> list[np.ndarray]:
    """The obvious: the number of every unit that each rank holds, [samples, parts]."""
    total = sum(division.samples)
    whole = np.arange(total * parts).reshape(total, parts)
    found = []
    for first, last in division.replicas:
        for tensor in range(division.tensor):
            width = parts // division.tensor
            found.append(whole[first:last, tensor * width : (tensor + 1) * width].reshape(-1))
    return found


def picked(flat: np.ndarray, slices: tuple[Interval, ...]) -> np.ndarray:
    for start, stop in slices:
        assert start % UNIT == stop % UNIT == 0
    return np.concatenate([flat[a // UNIT : b // UNIT] for a, b in slices])


@settings(deadline=None, derandomize=True, max_examples=200)
@given(cuts())
def test_every_element_arrives_once_where_it_belongs(cut: tuple[Division, Division, int]) -> None:
    upper, lower, parts = cut
    found = transfers(upper, lower, UNIT * parts)
    above, below = held(upper, parts), held(lower, parts)
    arrived = [np.full(len(flat), -1) for flat in below]
    for one in found:
        sent = picked(above[one.source], one.sent)
        assert one.bytes_ == UNIT * len(sent) > 0
        target = arrived[one.target]
        places = picked(np.arange(len(target)), one.placed)
        assert (target[places] == -1).all()
        target[places] = sent
    assert all((a == b).all() for a, b in zip(arrived, below, strict=True))
    # Every byte crosses once, over the cards of all ranks that hold any.
    assert sum(one.bytes_ for one in found) == UNIT * parts * sum(upper.samples)
    assert {one.source for one in found} == {i for i, flat in enumerate(above) if len(flat)}
    assert {one.target for one in found} == {i for i, flat in enumerate(below) if len(flat)}
    assert len({(one.source, one.target) for one in found}) == len(found)


def test_equal_stages_pass_whole_buffers_rank_to_rank() -> None:
    division = Division((2, 2, 2), tensor=2, context=2)
    found = transfers(division, division, 64)
    assert [(one.source, one.target) for one in found] == [(i, i) for i in range(12)]
    assert all(one.sent == one.placed == ((0, 32),) for one in found)


def test_three_replicas_into_two() -> None:
    found = transfers(Division((2, 2, 2)), Division((3, 3)), 10)
    assert [(t.source, t.target, t.sent, t.placed) for t in found] == [
        (0, 0, ((0, 20),), ((0, 20),)),
        (1, 0, ((0, 10),), ((20, 30),)),
        (1, 1, ((10, 20),), ((0, 10),)),
        (2, 1, ((0, 20),), ((10, 30),)),
    ]


def test_without_scatter_every_tensor_rank_passes_all_tokens_on() -> None:
    apart, whole = (Division((2, 2), 4, whole=w) for w in (False, True))
    bytes_ = [sum(t.bytes_ for t in transfers(d, d, 64)) for d in (apart, whole)]
    assert bytes_ == [4 * 64, 4 * 4 * 64]


def test_stages_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 samples above a cut, 2 below"):
        transfers(Division((3,)), Division((1, 1)), 8)
    for lower in (Division((2,), 1, whole=True), Division((2,), context=2)):
        with pytest.raises(ValueError, match="need their like"):
            transfers(Division((2,), 2, whole=lower.whole), lower, 8)
