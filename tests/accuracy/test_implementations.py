"""What is known of the code behind a table's runs, and what it changes in a case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from holmes.accuracy.case_model import workload_of
from holmes.accuracy.case_plan import plan_of
from holmes.accuracy.implementations import implementation_of
from holmes.accuracy.predict import peak_memory, predict
from holmes.accuracy.table import Case, read_table
from holmes.cost.calibration import DEFAULT
from holmes.cost.memory import runtime_bytes
from holmes.workload import Segment
from tests.accuracy.test_tables import HEADER, SITES, TABLES, table

NEO = "GPT-Neo,4,2560,32,2048,50257,alps-gh200,16,4,4,1,1,8,none,0.5,,,,,"


def case_of(folder: Path, source: str, precision: str = "") -> Case:
    header = f"{HEADER},source,precision"
    (row,) = read_table(table(folder, f"{NEO},{source},{precision}", header=header))
    assert row.case is not None
    return row.case


def test_a_source_tells_what_its_rows_leave_out(tmp_path: Path) -> None:
    known, other = (case_of(tmp_path, source) for source in ("Sailor (SOSP 2025)", "somebody"))
    assert (known.precision, other.precision) == ("fp32", "mixed")
    assert any("fp32" in text for text in known.assumed) and not other.assumed
    stated = case_of(tmp_path, "Sailor (SOSP 2025)", "bf16")
    assert stated.precision == "bf16" and not stated.assumed


def test_code_without_a_head_has_neither_its_work_nor_its_states(tmp_path: Path) -> None:
    case = case_of(tmp_path, "sailor", "fp16")
    *layers, short = workload_of(case).blocks
    *others, whole = workload_of(replace(case, software="")).blocks
    assert [block.parameters for block in layers] == [block.parameters for block in others]
    assert short.parameters == 2 * case.hidden
    assert whole.flops_forward > 0.0 == short.flops_forward
    loss, logits = (
        next(part for part in block.inner if isinstance(part, Segment) and part.name == "loss")
        for block in (short, whole)
    )
    # A loss of 2560 features, whole on each tensor rank, in as many passes.
    vocabulary = workload_of(replace(case, software="")).vocabulary
    assert loss.bytes_ / case.hidden < logits.bytes_ / vocabulary
    assert loss.share(case.tp, 1, False) == 1.0
    named = replace(case, model="another GPT")
    assert workload_of(named).blocks[-1].flops_forward == whole.flops_forward


def test_a_mask_of_its_own_passes_the_scores_once_more_each_way(tmp_path: Path) -> None:
    case = case_of(tmp_path, "sailor", "fp16")
    cores = []
    for software in ("sailor", ""):
        inner = workload_of(replace(case, software=software)).blocks[1].inner
        cores.append(next(p for p in inner if isinstance(p, Segment) and p.attention))
    scores = case.heads * case.sequence**2
    # Dropout writes a copy and a mask byte that it reads back; both together one pass more.
    assert cores[0].bytes_ - cores[1].bytes_ == pytest.approx((4 - 4 - 1) * scores)
    assert cores[0].kernels == cores[1].kernels


def test_single_precision_takes_longer_and_holds_communicators(tmp_path: Path) -> None:
    half, single = (case_of(tmp_path, "somebody", word) for word in ("fp16", "fp32"))
    assert predict(single, SITES, DEFAULT).seconds > 1.2 * predict(half, SITES, DEFAULT).seconds
    layout = plan_of(single, SITES, DEFAULT).plan.stages[0].layout
    peak = peak_memory(plan_of(single, SITES, DEFAULT))
    assert peak.runtime == runtime_bytes(layout, accelerator=True)
    assert peak.runtime > runtime_bytes(layout, accelerator=False)


def test_what_came_later_holds_from_its_month_on() -> None:
    before, after, undated = (
        implementation_of(f"torchtitan benchmarks/{name}.md")
        for name in ("llama3_h100_202412", "llama3_h200_202506", "llama3")
    )
    assert before == undated and not before.compiles_loss
    assert after.compiles_loss and implementation_of("TORCHTITAN 2025-06").compiles_loss


def test_a_compiled_loss_keeps_no_wide_logits(tmp_path: Path) -> None:
    rows = read_table(TABLES / "h100_llama3_8b.csv")
    case = next(row.case for row in rows if row.case and row.case.site == "h200-nodes")
    heads = [
        workload_of(one).blocks[-1]
        for one in (case, replace(case, software=""), replace(case, compiled=False))
    ]
    kept = [head.activation_bytes["none"] + head.working_bytes for head in heads]
    logits = case.sequence * case.vocabulary
    assert kept[1] - kept[0] == pytest.approx((4 + 8 - 2 - 2) * logits)
    assert kept[2] == pytest.approx(kept[1])


def test_torchtitan_gathers_once_in_a_pipeline_and_copies_what_it_gathers() -> None:
    case = next(row.case for row in read_table(TABLES / "h100_llama3_8b.csv") if row.case)
    piped = replace(case, pp=8, dp=1 * case.dp, devices=8 * case.devices, global_batch=8 * case.dp)
    for software, level in ((case.software, "optimizer"), ("", "parameters")):
        made = plan_of(replace(piped, software=software, micro=1), SITES, DEFAULT)
        assert made.plan.sharding == level
        assert made.cost.execution.copies_tokens == bool(software)
        assert made.cost.execution.stops_early == bool(software)
    assert plan_of(case, SITES, DEFAULT).plan.sharding == "parameters"


def test_single_operations_move_more_than_own_kernels() -> None:
    """Of Llama 8B in bf16: 36 bytes an element of a norm, 20 of a rotation, 10 of a gate."""
    case = next(row.case for row in read_table(TABLES / "h100_llama3_8b.csv") if row.case)
    moved = {}
    for software in (case.software, "NeMo"):
        inner = workload_of(replace(case, software=software, compiled=False)).blocks[1].inner
        moved[software] = {
            p.name: p.bytes_ / case.sequence for p in inner if isinstance(p, Segment)
        }
    apart, own = moved.values()
    assert (apart["norm1"], own["norm1"]) == (36 * 4096, 4 * 4096)
    assert apart["rotary"] == 20 * (4096 + 1024) + 2 * 2 * 4096
    assert (apart["mlp_activation"], own["mlp_activation"]) == (10 * 14336, 6 * 14336)
    compiled = workload_of(replace(case, compiled=True)).blocks[1].inner
    assert {p.name: p.bytes_ / case.sequence for p in compiled if isinstance(p, Segment)} == own


def test_a_pipeline_of_torchtitan_divides_the_batch_of_a_replica() -> None:
    case = next(row.case for row in read_table(TABLES / "h100_llama3_8b.csv") if row.case)
    piped = replace(case, pp=4, devices=4 * case.devices, micro=32, global_batch=32 * case.dp)
    assert plan_of(piped, SITES, DEFAULT).plan.batch.micro == 8
    made = plan_of(replace(piped, software="somebody"), SITES, DEFAULT)
    assert made.plan.batch.micro == 32


def test_software_with_own_kernels_has_the_newest_attention() -> None:
    case = next(row.case for row in read_table(TABLES / "h100_llama3_8b.csv") if row.case)
    case = replace(case, sequence=65536, compiled=True, recompute="none")
    times = [
        predict(replace(case, software=software), SITES, DEFAULT).seconds
        for software in ("NeMo", "somebody")
    ]
    assert times[0] < 0.85 * times[1]
