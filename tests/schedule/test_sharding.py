"""Who keeps what: parts cover a bucket, nest, and are what the groups of a level move."""

from __future__ import annotations

import pytest

from holmes.plan.layout import Layout, Sharding
from holmes.plan.sharding import shard_groups
from holmes.schedule.sharding import Shards

LEVELS = [
    Shards(6, 1, 1, 6),
    Shards(6, 1, 6, 6),
    Shards(6, 6, 6, 6),
    Shards(12, 3, 3, 3),
    Shards(12, 2, 6, 12),
    Shards(12, 1, 4, 12),
    Shards(12, 3, 3, 12),
    Shards(1, 1, 1, 1),
]


@pytest.mark.parametrize("shards", LEVELS, ids=str)
def test_parts_nest_and_cover_once(shards: Shards) -> None:
    length = 5 * shards.members
    owners: dict[int, int] = {}
    for rank in range(shards.members):
        weights = shards.weights_of(rank, length)
        gradients = shards.gradients_of(rank, length)
        states = shards.states_of(rank, length)
        assert weights[0] <= gradients[0] <= states[0] < states[1] <= gradients[1] <= weights[1]
        if shards.counts(rank):
            for element in range(*states):
                owners[element] = owners.get(element, 0) + 1
    assert owners == dict.fromkeys(range(length), 1)


@pytest.mark.parametrize("shards", LEVELS, ids=str)
def test_groups_put_together_what_their_members_keep(shards: Shards) -> None:
    length = 5 * shards.members
    for rank in range(shards.members):
        inner, middle = shards.inner_group(rank), shards.middle_group(rank)
        assert rank in inner and set(inner) <= set(middle)
        gathered = [e for r in inner for e in range(*shards.weights_of(r, length))]
        assert gathered == list(range(length))
        parts = [shards.gradients_of(r, length) for r in middle]
        assert parts == [
            (n * length // len(middle), (n + 1) * length // len(middle)) for n in shards.order
        ]
        far = shards.far_group(rank)
        assert {shards.gradients_of(r, length) for r in far} == {shards.gradients_of(rank, length)}
        if shards.states > shards.gradients:
            summed = [e for r in far for e in range(*shards.states_of(r, length))]
            assert summed == list(range(*shards.gradients_of(rank, length)))
        side = [e for r in shards.side_group(rank) for e in range(*shards.gradients_of(r, length))]
        assert side == list(range(*shards.weights_of(rank, length)))


@pytest.mark.parametrize("sizes", [(2, 3, 6), (4, 4, 6), (4, 2, 8)])
def test_sizes_that_do_not_nest_are_refused(sizes: tuple[int, int, int]) -> None:
    weights, gradients, members = sizes
    with pytest.raises(ValueError, match="do not nest"):
        Shards(members, weights, gradients, members)


@pytest.mark.parametrize(
    ("sharding", "shard", "names"),
    [
        ("optimizer", (), ["d"]),
        ("gradients", (), ["d"]),
        ("parameters", (), ["d"]),
        ("hybrid", (2,), ["d.near2.0", "d.far.0", "d.far.1", "d.near2.2"]),
        ("three-level", (2, 2), ["d.near2.0", "d.far.0", "d.far.1", "d.near2.2"]),
        ("three-level", (2, 4), ["d.near2.0", "d", "d.side.0", "d.side.1", "d.near2.2"]),
    ],
)
def test_groups_of_a_level(sharding: Sharding, shard: tuple[int, ...], names: list[str]) -> None:
    groups = shard_groups(Layout(dp=4, shard=shard), sharding, "d")
    assert sorted(groups) == sorted(names)
    assert all(list(members) == sorted(members) for members in groups.values())
