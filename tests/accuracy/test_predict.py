"""A measured run as a plan, and its prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from holmes.accuracy.case_plan import plan_of, scaled
from holmes.accuracy.predict import case_seconds, peak_memory, predict
from holmes.accuracy.table import Case, UnusableRowError, read_table
from holmes.cost.calibration import DEFAULT
from holmes.cost.model import CostModel
from holmes.hardware.read import read_site
from holmes.simulate.closed_form import step_seconds
from tests.accuracy.test_tables import SITES, TABLES

CASE = Case(
    2, "GPT-175B", 96, 12288, 96, 2048, None, 51200, "selene", 64, 8, 8, 1, 1, 1, 1, 64, "full"
)  # fmt: skip


def test_an_interleaved_run_has_a_smaller_bubble_and_keeps_more() -> None:
    """Korthikanti et al., figure 1: 96 layers of 579 MB on 8 of 8 x 3 stages, with 1 + 7/24."""
    plain, chunked = (
        plan_of(replace(CASE, interleave=v, recompute="none"), SITES, DEFAULT) for v in (1, 3)
    )
    assert case_seconds(chunked) < case_seconds(plain)
    ratio = peak_memory(chunked).activations / peak_memory(plain).activations
    assert ratio == pytest.approx(1 + 7 / 24, rel=0.01)
    assert peak_memory(chunked).activations / 2**30 == pytest.approx(66.84, rel=0.03)


@pytest.mark.parametrize("pp", [1, 8])
@pytest.mark.parametrize("interleave", [1, 3])
def test_a_row_is_priced_like_a_planned_layout(pp: int, interleave: int) -> None:
    """The planner's own price of the same plan, and of what its JSON gives back."""
    made = plan_of(
        replace(CASE, pp=pp, devices=8 * pp, interleave=interleave if pp > 1 else 1),
        SITES,
        DEFAULT,
    )
    assert made.plan.schedule.virtual_stages == (interleave if pp > 1 else 1)
    planned = CostModel(made.cost.topology, made.plan.workload, DEFAULT)
    assert case_seconds(made) == step_seconds(made.plan, planned)


def test_sites_grow_to_the_devices_of_a_run(tmp_path: Path) -> None:
    site = read_site(SITES / "selene.yaml")
    assert [g.count for c in scaled(site, 64).clusters for g in c.groups()] == [8]
    (part,) = scaled(site, 4).clusters[0].groups()
    assert (part.count, part.device.count) == (1, 4)
    (parts,) = scaled(site, 12).clusters[0].groups()
    assert (parts.count, parts.device.count) == (2, 6)
    with pytest.raises(UnusableRowError, match="whole nodes"):
        scaled(site, 13)
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


def test_a_framework_keeps_the_head_and_a_compiler_what_is_read() -> None:
    llama = replace(CASE, model="Llama-3.1-8B", layers=32, hidden=4096, heads=32, sequence=8192,
                    vocabulary=128256, devices=8, tp=1, pp=1, dp=8, global_batch=16, micro=2,
                    sharding="parameters", site="grand-teton-h100")  # fmt: skip
    full, plain, compiled = (
        peak_memory(plan_of(case, SITES, DEFAULT))
        for case in (
            llama,
            replace(llama, recompute="selective"),
            replace(llama, recompute="selective", compiled=True),
        )
    )
    logits = 2 * 8192 * 128256
    assert full.activations > 4 * logits  # in fp32, beside the layers' inputs
    assert plain.activations - compiled.activations == 32 * 2 * 8192 * 4096 * 2


def test_levels_of_sharding_with_groups_are_priced_with_them() -> None:
    """FSDP on 16 nodes: groups inside a node hold more and gather over faster links."""
    rows = read_table(TABLES / "h100_llama3_8b.csv")
    case = next(row.case for row in rows if row.case and row.case.devices == 128)
    made = {
        sharding: plan_of(replace(case, sharding=sharding), SITES, DEFAULT)
        for sharding in ("parameters", "hybrid", "three-level")
    }
    shards = {name: one.plan.stages[0].layout.shard for name, one in made.items()}
    assert shards == {"parameters": (), "hybrid": (8,), "three-level": (2, 8)}
    all_, node, pair = (peak_memory(one).states for one in made.values())
    assert all_ < pair < node
    seconds = {name: case_seconds(one) for name, one in made.items()}
    assert seconds["three-level"] < seconds["hybrid"]
    assert "8 replicas" in made["hybrid"].assumed[-1] and not made["parameters"].assumed


def test_a_site_with_the_devices_of_a_run_stays(tmp_path: Path) -> None:
    text = (
        "name: mixed\nclusters:\n  - name: mixed\n    nodes:\n"
        "      - {count: 1, device: {kind: t4, count: 8}, nics: [{kind: ethernet, gbit_s: 50}]}\n"
        "      - {count: 2, device: {kind: V100-SXM2-16GB, count: 8}, nics: "
        "[{kind: ethernet, gbit_s: 50}]}\n"
    )
    (tmp_path / "mixed.yaml").write_text(text)
    site = read_site(tmp_path / "mixed.yaml")
    assert scaled(site, 24) is site
    assert [g.count for g in scaled(site, 48).clusters[0].groups()] == [2, 4]
    with pytest.raises(UnusableRowError, match="several kinds"):
        scaled(site, 32)


def test_unfitted_device_kinds_have_a_wider_interval() -> None:
    assert DEFAULT.interval_on(["a100-80g-sxm"]) == DEFAULT.interval
    assert DEFAULT.interval_on(["a100-80g-sxm", "v100-16g-sxm2"]) == DEFAULT.interval_elsewhere
    measured = DEFAULT.with_blocks({}, micro=1, source="own")
    assert measured.interval_on(["v100-16g-sxm2"]) == DEFAULT.interval
