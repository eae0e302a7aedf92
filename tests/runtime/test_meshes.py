"""Stages that differ in their degrees, and boundaries that tensor ranks pass on, on real ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from holmes.launch.pool import Pool
from holmes.plan.program import program_of, schedule_of
from holmes.planner.groups import with_bytes
from holmes.planner.traffic import with_closed_bytes
from holmes.schedule.validate import validate
from tests.runtime.plans import Spec, plan_of
from tests.runtime.reference import BETAS, plain_gradients
from tests.runtime.trained import (
    BOUNDS,
    NO_CLIP,
    assert_trains_as_plain,
    kind,
    name_of,
    trained,
    worst,
)

THREE_TWO = ((1, 3), (1, 2))
SPECS = [
    Spec(pp=2, meshes=THREE_TWO, micro=4, precision="fp64"),
    Spec(pp=2, meshes=THREE_TWO, micro=4, precision="fp64", tied=True, overlap=True),
    Spec(pp=2, meshes=((1, 2), (1, 3)), micro=3, precision="fp64", schedule="zero-bubble"),
    Spec(pp=2, meshes=((2, 1), (1, 3)), micro=4, precision="fp64", tied=True, vocabulary=41),
    Spec(pp=2, meshes=((1, 2), (2, 1)), micro=3, precision="fp64", sharding="none", tied=True),
    Spec(
        pp=2, meshes=((1, 1), (1, 3)), micro=3, precision="fp64", schedule="gpipe", recompute="full"
    ),
    Spec(pp=2, meshes=THREE_TWO, micro=5, precision="fp64", virtual=2, schedule="interleaved"),
    Spec(pp=3, meshes=((1, 1), (2, 1), (1, 2)), micro=2, precision="fp64", extra_warmup=1),
    Spec(pp=2, tp=2, precision="fp64", scatter_gather=False, overlap=True),
]
parallel = pytest.mark.parallel


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Five seats: three hosts and two."""
    with Pool(5, log_dir=tmp_path_factory.mktemp("five")) as pool:
        yield pool


@parallel
@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_training_equals_plain_training(ranks: Pool, spec: Spec, tmp_path: Path) -> None:
    assert_trains_as_plain(ranks, spec, tmp_path)


@parallel
def test_gradients_in_fp32(ranks: Pool, tmp_path: Path) -> None:
    spec = Spec(pp=2, meshes=THREE_TWO, micro=4, steps=1, clip=NO_CLIP, tied=True)
    _, found = trained(ranks, spec, tmp_path)
    gradients = {n: m / (1 - BETAS[0]) for n, m in kind(found, "exp_avg/").items()}
    assert worst(gradients, plain_gradients(spec), spec) <= BOUNDS["fp32"]


@parallel
def test_scatter_changes_no_bit(ranks: Pool, tmp_path: Path) -> None:
    spec = Spec(pp=2, tp=2, tied=True)
    found = [
        trained(ranks, replace(spec, scatter_gather=on), tmp_path / str(on)) for on in (True, False)
    ]
    assert found[0][0][0]["losses"] == found[1][0][0]["losses"]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_lists_are_sound_and_bytes_have_their_closed_form(spec: Spec) -> None:
    plan = plan_of(spec)
    program = program_of(plan)
    validate(program, schedule_of(plan))
    listed = with_bytes(plan.groups, program, plan)
    assert listed == with_closed_bytes(plan.groups, plan)
    crossing = sum(group.bytes_per_step for group in listed if group.axis == "pipeline")
    boundary = plan.workload.blocks[0].output_bytes * plan.batch.global_
    copies = 1 if spec.scatter_gather else spec.tp
    cuts = spec.pp * spec.virtual - 1
    assert crossing == 2 * cuts * copies * boundary


def test_scatter_divides_what_crosses_by_the_tensor_ranks() -> None:
    spec = Spec(pp=2, tp=2)
    on, off = (
        sum(
            g.bytes_per_step for g in with_bytes(p.groups, program_of(p), p) if g.axis == "pipeline"
        )
        for p in (plan_of(spec), plan_of(replace(spec, scatter_gather=False)))
    )
    assert off == 2 * on


def test_a_plan_of_unequal_stages_has_no_layout_of_its_own() -> None:
    plan = plan_of(SPECS[3])
    assert plan.layout is None and plan.pp == 2
    assert plan.degrees == {"tp": "2+1", "pp": 2, "dp": "1+3"}
    assert [plan.samples_of(rank) for rank in range(5)] == [(0, 4), (0, 4), (0, 2), (2, 3), (3, 4)]
    assert asdict(plan)["stages"][1]["samples"] == (2, 1, 1)
