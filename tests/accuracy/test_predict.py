"""What the software of a measured run changes in the recurrence, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from holmes.accuracy.case_plan import plan_of, scaled
from holmes.accuracy.predict import (
    all_reduced,
    blocking,
    case_seconds,
    fully_sharded,
    peak_memory,
    predict,
)
from holmes.accuracy.table import Case, UnusableRowError
from holmes.cost.calibration import DEFAULT
from holmes.hardware.read import read_site
from holmes.schedule.one_f_one_b import one_f_one_b
from holmes.simulate.recurrence import PartTimes, PipelineTimes, StageTimes, pipeline_seconds
from tests.accuracy.test_tables import SITES

CASE = Case(
    2, "GPT-175B", 96, 12288, 96, 2048, None, 51200, "selene", 64, 8, 8, 1, 1, 1, 1, 64, "full"
)  # fmt: skip


def times(stages: int, transfer: float, gather: float = 0.0) -> PipelineTimes:
    part = PartTimes(gather, 1.0, 2.0, 2 * gather)
    stage = StageTimes((part, part))
    cuts = (transfer,) * (stages - 1)
    return PipelineTimes((stage,) * stages, cuts, cuts)


@pytest.mark.parametrize("stages", [2, 4])
def test_a_stage_that_waits_pays_for_each_transfer(stages: int) -> None:
    microbatches, transfer, fixed = 16, 0.5, 0.25
    waiting = blocking(times(stages, transfer), 1, fixed)
    found = pipeline_seconds(one_f_one_b(stages, microbatches), waiting, overlap=False)
    # The slowest stage waits once or, between two cuts, twice a micro-batch.
    each = 6.0 + (1 if stages == 2 else 2) * (transfer + fixed)
    assert found == pytest.approx(microbatches * each + (stages - 1) * 6.0, rel=0.06)
    free = pipeline_seconds(one_f_one_b(stages, microbatches), times(stages, 0.0), overlap=False)
    assert free == pytest.approx((microbatches + stages - 1) * 6.0)


def test_chunks_send_more_often() -> None:
    once, thrice = (blocking(times(4, 0.5), chunks, 0.0) for chunks in (1, 3))
    assert once.stages[0].forward == 2.0 and once.stages[1].forward == 2.5
    assert [stage.forward for stage in thrice.stages] == [3.5] * 4


def test_sharded_parameters_hide_under_compute_until_they_are_slower() -> None:
    schedule = one_f_one_b(1, 3)
    hidden = fully_sharded(times(1, 0.0, gather=0.1), slowdown=0.0)
    found = pipeline_seconds(schedule, hidden, overlap=True)
    assert found == pytest.approx(3 * 6.0 + 0.1 + 0.2)
    slow = fully_sharded(times(1, 0.0, gather=4.0), slowdown=0.0)
    # Per part 4 s of gather in the forward, 4 + 8 in the backward.
    assert slow.stages[0].forward == 8.0 and slow.stages[0].backward == 24.0
    dragged = fully_sharded(times(1, 0.0, gather=0.1), slowdown=0.5)
    assert dragged.stages[0].forward == pytest.approx(2 * (1.0 + 0.05))


def test_whole_gradients_are_wider_than_parameters() -> None:
    found = all_reduced(times(1, 0.0, gather=0.1), 2.0)
    assert [part.gather for part in found.stages[0].parts] == [0.2, 0.2]
    assert found.stages[0].forward == 2.0


def test_an_interleaved_run_has_a_smaller_bubble_and_keeps_more() -> None:
    """Korthikanti et al., figure 1: 96 layers of 579 MB on 8 of 8 x 3 stages, with 1 + 7/24."""
    plain, chunked = (
        plan_of(replace(CASE, interleave=v, recompute="none"), SITES, DEFAULT) for v in (1, 3)
    )
    assert case_seconds(chunked) < case_seconds(plain)
    ratio = peak_memory(chunked).activations / peak_memory(plain).activations
    assert ratio == pytest.approx(1 + 7 / 24)
    assert peak_memory(chunked).activations / 2**30 == pytest.approx(66.84, rel=0.03)


def test_more_devices_wait_longer_for_one_another() -> None:
    made = plan_of(CASE, SITES, DEFAULT)
    compute = replace(DEFAULT.compute, straggler=0.01)
    slower = replace(made, cost=replace(made.cost, calibration=replace(DEFAULT, compute=compute)))
    base = 1 + 6 * DEFAULT.compute.straggler
    assert case_seconds(slower) / case_seconds(made) == pytest.approx(1.06 / base)


def test_sites_grow_to_the_devices_of_a_run(tmp_path: Path) -> None:
    site = read_site(SITES / "selene.yaml")
    assert [g.count for c in scaled(site, 64).clusters for g in c.groups()] == [8]
    (part,) = scaled(site, 4).clusters[0].groups()
    assert (part.count, part.device.count) == (1, 4)
    with pytest.raises(UnusableRowError, match="whole nodes"):
        scaled(site, 12)
    text = (
        "name: two\nclusters:\n"
        + "".join(
            f"  - name: {name}\n    nodes: 1\n    device: {{kind: a100-80g-sxm, count: 8}}\n"
            f"    nics: [{{kind: {name}, gbit_s: 200, count: 4}}, {{kind: ethernet, gbit_s: 25}}]\n"
            for name in ("infiniband", "roce")
        )
        + "links:\n  - {between: [infiniband, roce], kind: ethernet, gbit_s: 25, latency_us: 50}\n"
    )
    (tmp_path / "two.yaml").write_text(text)
    grown = scaled(read_site(tmp_path / "two.yaml"), 32)
    assert [g.count for c in grown.clusters for g in c.groups()] == [2, 2]
    case = replace(CASE, site="two", devices=32, tp=8, pp=4, global_batch=32, layers=24,
                   hidden=4096, heads=32)  # fmt: skip
    assert predict(case, tmp_path, DEFAULT).seconds > 0
    # Data groups of 16 across the clusters fall back to Ethernet, pipeline cuts alone do not.
    crossing = predict(replace(case, pp=1, dp=4), tmp_path, DEFAULT).seconds
    assert crossing > predict(replace(case, pp=2, dp=2), tmp_path, DEFAULT).seconds


def test_unfitted_device_kinds_have_a_wider_interval() -> None:
    assert DEFAULT.interval_on(["a100-80g-sxm"]) == DEFAULT.interval
    assert DEFAULT.interval_on(["a100-80g-sxm", "v100-16g-sxm2"]) == DEFAULT.interval_elsewhere
    measured = DEFAULT.with_blocks({}, micro=1, source="own")
    assert measured.interval_on(["v100-16g-sxm2"]) == DEFAULT.interval
