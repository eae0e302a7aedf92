"""What each level of sharding exchanges, against all its groups one by one."""

from __future__ import annotations

from typing import Any

import pytest

from holmes.cost.calibration import DEFAULT
from holmes.cost.model import CostModel
from holmes.hardware.topology import Topology
from holmes.models.gpt.describe import config_from, workload
from holmes.plan.layout import Layout
from holmes.planner.ground import Ground
from holmes.planner.levels import Level, levels
from holmes.planner.placement import rank_maps
from holmes.schedule import Op
from tests.planner.workloads import site

BYTES = 1e8


def ground(layout: Layout) -> Ground:
    where = site(2, 2, devices=8, kind="a100-80g-sxm", gbit_s=(800, 400, 25))
    model = workload(config_from("gpt-3.6b"), "mixed")
    cost = CostModel(Topology(where), model, DEFAULT)
    return Ground(cost, layout, rank_maps(cost.topology, layout, "cluster")[0], "per-group")


def together(ground: Ground, op: Op, groups: list[list[int]], bytes_: float) -> float:
    """Seconds of a collective in all these groups of replicas of stage 0, on all columns."""
    tp = ground.layout.tp
    traffics = []
    for group in groups:
        fabric = ground.fabric([ground.slots[0][place * tp] for place in group])
        for column in range(tp):
            ranks = [place * tp + column for place in group]
            traffics.append(ground.network.collective(op, ranks, bytes_ / tp, fabric))
    return ground.network.together(traffics).seconds


def level(ground: Ground, sharding: Any, **sizes: Any) -> Level:
    return levels(ground, sharding, **sizes)[0]


@pytest.mark.parametrize("tp", [1, 2])
def test_hybrid_gathers_near_and_sums_far(tp: int) -> None:
    made = ground(Layout(tp, 2, 16 // tp))
    count = 16 // tp
    found = level(made, "hybrid", wish=(4,))
    near = [list(range(first, first + 4)) for first in range(0, count, 4)]
    far = [list(range(first, count, 4)) for first in range(4)]
    inside = together(made, Op.REDUCE_SCATTER, near, BYTES)
    across = together(made, Op.ALL_REDUCE, far, BYTES / 4)
    assert found.gather.seconds(BYTES, 1) == pytest.approx(inside, rel=1e-3)
    assert found.reduce.seconds(BYTES, 1) == pytest.approx(inside, rel=1e-3)
    assert found.summed.seconds(BYTES, 1) == pytest.approx(inside + across, rel=2e-2)
    assert found.refreshed.seconds(BYTES, 1) == 0


def test_three_levels_spread_new_weights_over_the_outer_two() -> None:
    made = ground(Layout(1, 2, 16))
    found = level(made, "three-level", wish=(2, 8))
    near = [list(range(first, first + 8)) for first in range(0, 16, 8)]
    far = [[first, first + 8] for first in range(8)]
    side = [list(range(first + p, first + 8, 2)) for first in (0, 8) for p in range(2)]
    across = together(made, Op.REDUCE_SCATTER, far, BYTES / 8)
    reduce = together(made, Op.REDUCE_SCATTER, near, BYTES)
    aside = together(made, Op.ALL_GATHER, side, BYTES / 2)
    assert found.reduce.seconds(BYTES, 1) == pytest.approx(reduce, rel=1e-3)
    assert found.summed.seconds(BYTES, 1) == pytest.approx(reduce + across, rel=2e-2)
    assert found.refreshed.seconds(BYTES, 1) == pytest.approx(across + aside, rel=2e-2)


def test_levels_without_groups_exchange_over_all_replicas() -> None:
    made = ground(Layout(1, 2, 16))
    everywhere = made.exchanges[0]
    workload = made.cost.workload
    for sharding in ("none", "optimizer"):
        found = level(made, sharding)
        assert (found.summed, found.refreshed) == (everywhere, everywhere)
        assert found.floors(1e8, workload) == (0.0, 0.0)
    gradients, parameters = level(made, "gradients"), level(made, "parameters")
    assert gradients.floors(1e8, workload)[0] == 0.0 < gradients.floors(1e8, workload)[1]
    assert gradients.refreshed == everywhere
    assert parameters.gather == parameters.summed == everywhere
    assert parameters.refreshed.seconds(BYTES, 1) == 0
    assert level(made, "hybrid", wish=(16,)) == parameters


def test_narrow_elements_make_exchanges_of_a_micro_batch_shorter() -> None:
    made = ground(Layout(1, 2, 16))
    plain, narrow = (level(made, "parameters", quantize=name) for name in ("none", "int4"))
    assert narrow.gather.per_byte < 0.6 * plain.gather.per_byte
    assert narrow.reduce.per_byte < 0.3 * plain.reduce.per_byte


def test_one_replica_exchanges_nothing() -> None:
    found = level(ground(Layout(8, 4, 1)), "parameters")
    assert found.floors(1e9, ground(Layout(8, 4, 1)).cost.workload) == (0.0, 0.0)
    assert found.summed.seconds(1e9, 1) == 0
