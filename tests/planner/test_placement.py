"""Rank orders: the two-cluster examples, and properties against brute force."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holmes.errors import ConfigError
from holmes.hardware.topology import Topology
from holmes.plan.layout import Layout
from holmes.planner.placement import by_cluster, cluster_of, rank_maps, scattered, stage_slots
from tests.planner.workloads import site


def whole_stages(topology: Topology, layout: Layout, ranks: tuple[int, ...]) -> int:
    """Stages whose devices all sit in one cluster."""
    return sum(
        "+" not in cluster_of(stage_slots(topology, layout, ranks, stage))
        for stage in range(layout.pp)
    )


def test_two_clusters_of_two_hosts() -> None:
    topology = Topology(site(2, 2))
    layout = Layout(pp=2, dp=2)
    assert by_cluster(topology, layout) == ((0, 1, 2, 3), (2, 3, 0, 1))
    assert rank_maps(topology, layout, "launch") == ((0, 1, 2, 3),)
    assert rank_maps(topology, layout, "scattered") == ((0, 2, 1, 3),)


def test_unequal_clusters_keep_whole_stages() -> None:
    topology = Topology(site(5, 4, 3))
    layout = Layout(pp=3, dp=4)
    best = max(whole_stages(topology, layout, ranks) for ranks in by_cluster(topology, layout))
    assert best == 2


def test_forced_map_is_checked() -> None:
    topology = Topology(site(2, 2))
    layout = Layout(pp=2, dp=2)
    assert rank_maps(topology, layout, "cluster", (0, 2, 3, 1)) == ((0, 2, 3, 1),)
    for wrong in ((0, 1, 2), (0, 1, 2, 2), (0, 1, 2, 4), (0, 1, 2, -1)):
        with pytest.raises(ConfigError, match="rank map"):
            rank_maps(topology, layout, "cluster", wrong)


def test_tensor_groups_stay_inside_a_node() -> None:
    with pytest.raises(ConfigError, match="inside one node"):
        rank_maps(Topology(site(4, devices=1)), Layout(tp=2, dp=2), "launch")
    maps = rank_maps(Topology(site(2, 2, devices=2)), Layout(tp=2, pp=2, dp=2), "scattered")
    assert maps == ((0, 1, 4, 5, 2, 3, 6, 7),)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Topology, Layout]:
    clusters = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    tp = draw(st.sampled_from((1, 2)))
    topology = Topology(site(*clusters, devices=draw(st.sampled_from((tp, 2 * tp)))))
    units = len(topology.devices) // tp
    dp = draw(st.sampled_from([d for d in range(1, units + 1) if units % d == 0]))
    return topology, Layout(tp=tp, pp=units // dp, dp=dp)


@given(cases())
def test_always_permutations(case: tuple[Topology, Layout]) -> None:
    topology, layout = case
    devices = list(range(len(topology.devices)))
    for ranks in (*by_cluster(topology, layout), scattered(topology, layout)):
        assert sorted(ranks) == devices


@given(cases())
def test_as_many_whole_stages_as_the_sizes_allow(case: tuple[Topology, Layout]) -> None:
    topology, layout = case
    size = layout.tp * layout.dp
    counts = [
        sum(slot.node.cluster == cluster.name for slot in topology.devices)
        for cluster in topology.site.clusters
    ]
    possible = sum(count // size for count in counts)
    for ranks in by_cluster(topology, layout):
        assert whole_stages(topology, layout, ranks) == possible


@pytest.mark.parametrize(
    ("nodes", "dp"),
    [
        ((2, 2), 1),
        ((2, 2), 2),
        ((3, 1), 2),
        ((1, 2, 3), 2),
        ((1, 2, 3), 3),
        ((5, 1), 3),
        ((4, 2), 2),
    ],
)
def test_against_every_permutation(nodes: tuple[int, ...], dp: int) -> None:
    """No order of the devices at all has more data groups inside a cluster."""
    topology = Topology(site(*nodes))
    devices = len(topology.devices)
    layout = Layout(pp=devices // dp, dp=dp)
    best = max(whole_stages(topology, layout, ranks) for ranks in permutations(range(devices)))
    found = by_cluster(topology, layout)
    assert all(whole_stages(topology, layout, ranks) == best for ranks in found)
