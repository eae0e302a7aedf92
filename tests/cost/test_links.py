"""Link coefficients come back from timings that were made with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holmes.cost.calibration import LAB, LinkCalibration
from holmes.cost.links import LinkTiming, with_measured_links
from holmes.cost.network import Network
from holmes.schedule.instruction import Op
from tests.simulate.plans import Case, make

TRUE = LinkCalibration(0.95, 0.0, 2e-4, 7e-10)
PLAN, COST = make(
    Case(forward=(1.0, 1.0), backward=(1.0, 1.0), microbatches=2, dp=2, fast=1.2e8, ethernet=1e7)
)


def timings(link: LinkCalibration) -> list[LinkTiming]:
    calibration = replace(COST.calibration, network=dict.fromkeys(LAB.network, link))
    network = Network(COST.topology, PLAN.rank_map, calibration)
    found = []
    for group in PLAN.groups:
        fabric = group.transport.fabric
        ops = {"world": [Op.ALL_REDUCE], "data": [Op.ALL_GATHER], "pipeline": [Op.SEND]}
        for op in ops[group.axis]:
            size = 4096 if op is Op.ALL_REDUCE else 1 << 20
            if op is Op.SEND:
                first, last = group.ranks
                traffic = network.transfer(first, last, size, fabric)
            else:
                traffic = network.collective(op, group.ranks, size, fabric)
            found.append(LinkTiming(group.name, op, size, traffic.seconds))
    return found


def test_the_fit_finds_what_made_the_timings() -> None:
    fitted = with_measured_links(LAB, PLAN, COST.topology, None, timings(TRUE)).link("roce")
    assert fitted.efficiency == pytest.approx(TRUE.efficiency, rel=0.02)
    assert fitted.step_seconds == pytest.approx(TRUE.step_seconds, rel=0.1)
    assert fitted.seconds_per_byte == pytest.approx(TRUE.seconds_per_byte, rel=0.1)


def test_groups_of_one_rate_do_not_count_the_line_twice() -> None:
    perfect = LinkCalibration(1.0, 0.0, 1e-4)
    found = timings(perfect)
    alike = [one for one in found if one.group.startswith("data")][:2]
    fitted = with_measured_links(LAB, PLAN, COST.topology, None, alike)
    network = Network(
        COST.topology, PLAN.rank_map, replace(COST.calibration, network=fitted.network)
    )
    for one in alike:
        group = PLAN.group_by_name[one.group]
        again = network.collective(one.op, group.ranks, one.bytes_, group.transport.fabric)
        assert again.seconds == pytest.approx(one.seconds, rel=0.01)


def test_a_line_never_carries_more_than_its_rate() -> None:
    quick = [replace(one, seconds=one.seconds / 3) for one in timings(TRUE)]
    assert with_measured_links(LAB, PLAN, COST.topology, None, quick).link("roce").efficiency == 1.0


def test_without_timings_nothing_changes() -> None:
    assert with_measured_links(LAB, PLAN, COST.topology, None, []) == LAB


def test_groups_inside_a_node_have_coefficients_of_their_own() -> None:
    near = with_measured_links(LAB, PLAN, COST.topology, None, timings(TRUE))
    assert near.link("intra-node") == LAB.link("intra-node")
    assert near.link("roce") == near.link("ethernet") != LAB.link("roce")
