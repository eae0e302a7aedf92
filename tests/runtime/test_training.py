"""The interpreter against plain training, on real ranks."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from holmes.launch.pool import Pool
from holmes.models.gpt.sharding import zero_gradient_parameters
from holmes.plan.program import program_of
from tests.runtime.plans import Spec, plan_of
from tests.runtime.reference import train_plainly

DEADLINE = 60
pytestmark = pytest.mark.parallel
Parameters = dict[str, torch.Tensor]
CUTS = (1, 2, 3, 4, 5, 6, 7)


def trained(
    ranks: Pool, spec: Spec, folder: Path, case: str = "train"
) -> tuple[list[Any], list[Parameters]]:
    """Run a case on pp x dp ranks; what each reported, and the parameters each held."""
    folder.mkdir(parents=True, exist_ok=True)
    world = spec.pp * spec.dp
    results = ranks.run(
        f"tests.runtime.cases:{case}",
        {"spec": asdict(spec), "folder": str(folder)},
        deadline_seconds=DEADLINE,
        ranks=world,
    )
    return list(results), [load_file(folder / f"{rank}.safetensors") for rank in range(world)]


def merged(parts: list[Parameters]) -> Parameters:
    """All parameters; copies of the same one must be bit-equal."""
    whole: Parameters = {}
    for part in parts:
        for name, tensor in part.items():
            plain = name.removeprefix("twin.")
            assert torch.equal(whole.setdefault(plain, tensor), tensor), f"copies of {name} differ"
    return whole


def difference(found: Parameters, expected: Parameters, spec: Spec) -> float:
    """The largest max|a-b| / max|a| over tensors whose true gradient is not zero."""
    assert found.keys() == expected.keys()
    skipped = zero_gradient_parameters(spec.config)
    return max(
        ((found[n] - expected[n]).abs().max() / expected[n].abs().max()).item()
        for n in found
        if n not in skipped
    )


@pytest.mark.parametrize(
    "spec",
    [
        Spec(),
        Spec(pp=2),
        Spec(pp=2, schedule="gpipe"),
        Spec(pp=2, extra_warmup=1, microbatches=5),
        Spec(pp=2, cuts=(1,), recompute="full"),
        Spec(pp=4, microbatches=6, overlap=True),
        Spec(pp=2, precision="fp64"),
        Spec(pp=2, recompute="selective"),
        Spec(pp=2, virtual=2, schedule="interleaved"),
        Spec(pp=3, virtual=2, layers=6, microbatches=6, schedule="interleaved", recompute="full"),
        Spec(pp=4, virtual=2, layers=6, microbatches=8, schedule="interleaved", cuts=CUTS),
        Spec(pp=3, virtual=2, layers=6, microbatches=5, schedule="looped-bfs"),
        Spec(pp=4, schedule="zero-bubble", microbatches=6),
        Spec(pp=2, schedule="zero-bubble", extra_warmup=1, recompute="full"),
        Spec(pp=2, schedule="zero-bubble", recompute="selective"),
    ],
    ids=lambda spec: (
        f"pp{spec.pp}x{spec.virtual}-{spec.schedule}-m{spec.microbatches}"
        f"-w{spec.extra_warmup}-{spec.recompute}-{spec.precision}"
    ),
)
def test_pipeline_alone_is_bit_equal(ranks: Pool, spec: Spec, tmp_path: Path) -> None:
    expected, losses, norms = train_plainly(spec)
    results, parts = trained(ranks, spec, tmp_path)
    found = merged(parts)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
    for result in results:
        assert result["losses"] == losses
        assert result["norms"] == norms
    assert losses[-1] < losses[0]
    assert abs(losses[-1] - math.log(spec.config.vocabulary)) > 1e-3


@pytest.mark.parametrize(
    ("precision", "bound"), [("fp32", 1e-6), ("fp64", 1e-12)], ids=["fp32", "fp64"]
)
@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlap"])
def test_pipeline_and_data(
    ranks: Pool, tmp_path: Path, precision: str, bound: float, overlap: bool
) -> None:
    # Adam divides a gradient by its own size: a low learning-rate horizon keeps fp32 rounding
    # comparable; 20 steps as a user would check.
    spec = Spec(pp=2, dp=2, precision=precision, overlap=overlap, steps=20)
    expected, losses, _ = train_plainly(spec)
    results, parts = trained(ranks, spec, tmp_path)
    assert difference(merged(parts), expected, spec) <= bound
    assert [r["losses"] for r in results] == [results[0]["losses"]] * 4
    assert results[0]["losses"] == pytest.approx(losses, rel=1e-5)


def test_overlap_and_sharding_do_not_change_a_bit(ranks: Pool, tmp_path: Path) -> None:
    base = Spec(pp=2, dp=2, steps=4)
    variants = {
        "overlap": replace(base, overlap=True),
        "none": replace(base, sharding="none"),
        "none-overlap": replace(base, sharding="none", overlap=True),
        "small-buckets": replace(base, blocks_per_bucket=1, overlap=True),
        "recompute": replace(base, recompute="full"),
    }
    results, parts = trained(ranks, base, tmp_path / "base")
    expected = merged(parts)
    for name, spec in variants.items():
        other, parts = trained(ranks, spec, tmp_path / name)
        found = merged(parts)
        assert all(torch.equal(found[k], expected[k]) for k in expected), name
        assert other[0]["losses"] == results[0]["losses"], name


def test_data_alone_over_three_ranks(ranks: Pool, tmp_path: Path) -> None:
    spec = Spec(dp=3, microbatches=2, overlap=True, precision="fp64")
    expected, _, _ = train_plainly(spec)
    _, parts = trained(ranks, spec, tmp_path)
    assert difference(merged(parts), expected, spec) <= 1e-12


@pytest.mark.parametrize("dp", [1, 2])
@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlap"])
def test_tied_weights_stay_equal(ranks: Pool, tmp_path: Path, dp: int, overlap: bool) -> None:
    spec = Spec(pp=2, dp=dp, tied=True, overlap=overlap, precision="fp64", steps=4)
    expected, losses, norms = train_plainly(spec)
    results, parts = trained(ranks, spec, tmp_path)
    assert any(name.startswith("twin.") for part in parts for name in part)
    assert difference(merged(parts), expected, spec) <= 1e-12
    assert results[0]["norms"] == pytest.approx(norms, rel=1e-12)
    assert results[0]["losses"] == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "virtual"), [("interleaved", 2), ("looped-bfs", 2), ("zero-bubble", 1)]
)
def test_every_schedule_with_replicas_ties_and_overlap(
    ranks: Pool, tmp_path: Path, schedule: str, virtual: int
) -> None:
    spec = Spec(
        pp=2,
        dp=2,
        tied=True,
        overlap=True,
        precision="fp64",
        schedule=schedule,
        virtual=virtual,
        steps=2,
        blocks_per_bucket=1,
    )
    expected, _, norms = train_plainly(spec)
    results, parts = trained(ranks, spec, tmp_path / "overlap")
    found = merged(parts)
    assert difference(found, expected, spec) <= 1e-12
    assert results[0]["norms"] == pytest.approx(norms, rel=1e-12)
    assert len({result["evaluated"] for result in results}) == 1
    _, parts = trained(ranks, replace(spec, overlap=False), tmp_path / "plain")
    assert all(torch.equal(found[name], tensor) for name, tensor in merged(parts).items())


def test_tied_weights_on_one_stage(ranks: Pool, tmp_path: Path) -> None:
    spec = Spec(dp=2, tied=True, precision="fp64", overlap=True)
    expected, _, _ = train_plainly(spec)
    _, parts = trained(ranks, spec, tmp_path)
    assert difference(merged(parts), expected, spec) <= 1e-12


def test_clipping_is_active_and_exact(ranks: Pool, tmp_path: Path) -> None:
    spec = Spec(pp=2, clip=0.01, steps=4)
    expected, _, norms = train_plainly(spec)
    assert min(norms) > 10 * spec.clip
    results, parts = trained(ranks, spec, tmp_path)
    found = merged(parts)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    free, _, _ = train_plainly(replace(spec, clip=1e9))
    assert any(not torch.equal(free[name], expected[name]) for name in expected)
    assert results[0]["norms"] == norms


@pytest.mark.parametrize("sharding", ["optimizer", "none"])
def test_continuing_from_named_shards_is_bit_equal(
    ranks: Pool, tmp_path: Path, sharding: str
) -> None:
    spec = Spec(pp=2, dp=2, tied=True, overlap=True, steps=4, sharding=sharding)
    _, through = trained(ranks, spec, tmp_path / "through")
    _, resumed = trained(ranks, spec, tmp_path / "resumed", case="resume")
    for a, b in zip(through, resumed, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlap"])
def test_a_step_that_is_not_finite_is_skipped_by_all(ranks: Pool, overlap: bool) -> None:
    spec = Spec(pp=2, dp=2, overlap=overlap)
    results = ranks.run(
        "tests.runtime.cases:not_finite",
        {"spec": asdict(spec)},
        deadline_seconds=DEADLINE,
        ranks=4,
    )
    for result in results:
        assert result["applied"] == [False, True]
        assert result["same"]
        assert math.isfinite(result["loss"])


def test_evaluation_is_the_mean_over_replicas(ranks: Pool, tmp_path: Path) -> None:
    spec = Spec(pp=2, dp=2, steps=1, precision="fp64")
    wide, _ = trained(ranks, spec, tmp_path / "wide")
    assert len({result["evaluated"] for result in wide}) == 1
    assert wide[0]["evaluated"] != pytest.approx(wide[0]["losses"][0], rel=1e-9)
    deep, _ = trained(ranks, replace(spec, pp=1), tmp_path / "deep")
    assert deep[0]["evaluated"] == pytest.approx(wide[0]["evaluated"], rel=1e-12)


def test_spans_are_the_program(ranks: Pool, tmp_path: Path) -> None:
    spec = Spec(pp=2, dp=2, overlap=True, steps=2)
    results, _ = trained(ranks, spec, tmp_path)
    program = program_of(plan_of(spec))
    for rank, result in enumerate(results):
        instructions = {ins.id: ins for ins in program.ranks[rank]}
        for step in result["spans"]:
            times = {span[0]: (span[3], span[4]) for span in step}
            assert times.keys() == instructions.keys()
            for identifier, ins in instructions.items():
                assert times[identifier][0] <= times[identifier][1]
                for wait in ins.waits:
                    assert times[wait][1] <= times[identifier][0]


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlap"])
def test_virtual_devices_sleep_and_move_all_bytes(ranks: Pool, overlap: bool) -> None:
    spec = Spec(pp=2, dp=2, tied=True, overlap=overlap, steps=2)
    seconds = 0.002
    results = ranks.run(
        "tests.runtime.cases:virtual",
        {"spec": asdict(spec), "seconds": seconds},
        deadline_seconds=DEADLINE,
        ranks=4,
    )
    plan = plan_of(spec)
    program = program_of(plan)
    for rank, result in enumerate(results):
        low, high = plan.stages[plan.layout.coordinates(rank)[0]].blocks
        for step in result["spans"]:
            assert sorted(span[0] for span in step) == [ins.id for ins in program.ranks[rank]]
            backward = sum(stop - start for _, op, start, stop in step if op == "backward")
            assert backward >= 2e9 * seconds * (high - low) * spec.microbatches
