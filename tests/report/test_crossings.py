"""Bytes between clusters, against counting by hand."""

from __future__ import annotations

from dataclasses import replace

from holmes.hardware.topology import Topology
from holmes.report.parts.crossings import crossings
from tests.report import fixtures


def test_groups_of_two_are_exact_and_larger_ones_bound() -> None:
    plan = fixtures.plan("holmes")
    cluster = [Topology(plan.site).devices[device].node.cluster for device in plan.rank_map]
    across = [
        group
        for group in plan.groups
        if len({cluster[rank] for rank in group.ranks}) == 2 and group.bytes_per_step
    ]
    (found,) = crossings(plan)
    assert set(found.groups) == {group.name for group in across}
    assert found.bytes_ == sum(group.bytes_per_step for group in across) > 0
    assert found.bound == any(len(group.ranks) > 2 for group in across)
    pairs = replace(plan, groups=tuple(g for g in plan.groups if len(g.ranks) == 2))
    (exact,) = crossings(pairs)
    assert not exact.bound


def test_a_group_inside_a_cluster_does_not_cross() -> None:
    plan = fixtures.plan("holmes")
    inside = replace(plan, groups=tuple(g for g in plan.groups if g.axis == "data"))
    (found,) = crossings(inside)
    assert (found.bytes_, found.groups, found.bound) == (0, (), False)
