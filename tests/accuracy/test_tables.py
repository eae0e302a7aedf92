"""Tables of measured runs: what is read, what is skipped, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from holmes.accuracy.case_model import workload_of
from holmes.accuracy.case_plan import plan_of
from holmes.accuracy.predict import predict
from holmes.accuracy.table import read_table
from holmes.accuracy.validate import validate
from holmes.cost.calibration import DEFAULT
from holmes.errors import DataError

TABLES = Path(__file__).parent.parent.parent / "benchmarks" / "tables"
SITES = TABLES / "sites"
HEADER = (
    "model,layers,hidden,heads,seq,vocab,site,n_gpus,tp,pp,dp,micro_batch,global_batch,recompute,"
    "iter_time_s,samples_per_s,tflops_per_gpu,max_mem_bytes,data_flag,how_obtained"
)
ROW = "GPT,24,1024,16,1024,50257,a100-nvswitch-800g,8,2,1,4,2,64,full,0.5,,,,,"


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize("name", sorted(path.name for path in TABLES.glob("*.csv")))
def test_the_tables_of_runs_are_read(name: str) -> None:
    if name == "hardware.csv":
        with pytest.raises(DataError, match="no column 'model'"):
            read_table(TABLES / name)
        return
    rows = read_table(TABLES / name)
    assert [row.row for row in rows] == list(range(2, len(rows) + 2))
    assert all((row.case is None) == bool(row.reason) for row in rows)


def test_a_prediction_does_not_depend_on_what_was_measured(tmp_path: Path) -> None:
    (one,) = read_table(table(tmp_path, ROW))
    (other,) = read_table(table(tmp_path, ROW.replace(",0.5,,,,", ",7.5,99,500,12345,")))
    assert one.measured != other.measured
    assert one.case is not None and one.case == other.case
    assert predict(one.case, SITES, DEFAULT).seconds > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("a100-nvswitch-800g", "nowhere"), "nowhere"),
        ((",8,2,1,4,", ",8,2,1,2,"), "is not 8"),
        ((",2,64,", ",3,64,"), "whole micro-batches"),
        ((",2,64,", ",2,,"), "global_batch is not stated"),
        ((",full,", ",some,"), "recompute 'some'"),
        ((",0.5,,,,,", ",0.5,,,,SUSPECT,"), "SUSPECT"),
        (("GPT,", "DeepSeek-MoE,"), "mixture of experts"),
        ((",8,2,1,4,2,64,", ",13,1,1,13,2,52,"), "whole nodes"),
    ],
)
def test_rows_that_cannot_be_scored_are_listed(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    found = validate(table(tmp_path, ROW, ROW.replace(*change)), SITES)
    assert found.score.n == 1
    assert [skip.row for skip in found.skipped] == [3]
    assert reason in found.skipped[0].reason


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW.replace(",0.5,", ",fast,"), "iter_time_s is 'fast'"),
        (ROW.replace(",24,", ",-24,"), "layers is '-24'"),
        (ROW.replace(",24,", ",2.5,"), "not a whole number"),
        (ROW + ",extra", "number of cells"),
        ("GPT,24", "number of cells"),
    ],
)
def test_bad_cells_are_refused_with_their_line(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=r"table\.csv:3") as error:
        read_table(table(tmp_path, ROW, row))
    assert message in str(error.value)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_table(tmp_path / "absent.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not CSV"):
        read_table(binary)
    with pytest.raises(DataError, match="no column"):
        read_table(table(tmp_path, header="a,b"))
    with pytest.raises(DataError, match="no rows"):
        read_table(table(tmp_path))
    with pytest.raises(DataError, match="no folder of site files"):
        validate(table(tmp_path, ROW), tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ((",8,2,1,4,2,64,", ",8,2,1,,2,64,"), True),
        ((",8,2,1,4,2,64,", ",8,2,,4,2,64,"), True),
        ((",8,2,1,4,2,64,", ",,2,1,4,2,64,"), True),
        ((",full,", ",Full,"), True),
        ((",8,2,1,4,2,64,", ",8,2,1,4,,64,"), False),
    ],
)
def test_what_a_row_leaves_out_follows_from_the_rest(
    tmp_path: Path, change: tuple[str, str], same: bool
) -> None:
    one, other = read_table(table(tmp_path, ROW, ROW.replace(*change)))
    assert one.case is not None and other.case is not None
    assert (replace(other.case, row=one.row) == one.case) == same
    assert bool(other.case.assumed) != same
    assert predict(other.case, SITES, DEFAULT).seconds > 0


def test_other_words_and_columns_are_understood(tmp_path: Path) -> None:
    header = HEADER + ",sharding,schedule,interleave,layers_per_stage,precision,colour"
    row = ROW.replace(",8,2,1,4,2,64,", ",8,1,4,2,2,64,")
    rows = read_table(
        table(
            tmp_path,
            row + ",ZeRO-1,Zero Bubble,,6 6 6 6,fp32,red",
            row + ",hsdp,1F1B,2,,bf16,",
            row + ",,made up,1,7 6 6 7,,",
            header=header,
        )
    )
    cases = [found.case for found in rows]
    assert None not in cases
    one, two, three = (plan_of(case, SITES, DEFAULT) for case in cases if case is not None)
    assert (one.plan.sharding, one.plan.schedule.name) == ("optimizer", "zero-bubble")
    assert one.plan.workload.compute_bytes == 4
    assert [stage.blocks for stage in one.plan.stages] == [(0, 7), (7, 13), (13, 19), (19, 26)]
    assert (two.plan.sharding, two.plan.schedule.name) == ("hybrid", "interleaved")
    assert any("hybrid" in text for text in two.assumed)
    assert three.plan.stages[0].blocks == (0, 7)
    with pytest.raises(DataError, match="layers_per_stage"):
        read_table(table(tmp_path, row + ",,,,six,,", header=header))


def test_the_source_says_whether_recomputation_counts(tmp_path: Path) -> None:
    ends = ("", "model FLOPs", "hardware FLOPs", "Megatron-DeepSpeed log")
    rows = read_table(table(tmp_path, *(f"{ROW[:-1]},{end}" for end in ends)))
    assert [row.measured.hardware_flops for row in rows] == [False, False, True, True]


def test_time_wins_over_rate_and_rate_over_flops(tmp_path: Path) -> None:
    rows = [ROW, ROW.replace(",0.5,,", ",,128,"), ROW.replace(",0.5,,,", ",,,60,")]
    found = validate(table(tmp_path, *rows), SITES)
    assert [row.metric for row in found.time] == [
        "iter_time_s",
        "samples_per_s",
        "tflops_per_gpu",
    ]
    seconds = found.time[0].predicted
    assert found.time[1].predicted == pytest.approx(64 / seconds)
    data = found.to_dict()
    assert data["n"] == 3 and set(data) >= {"mape", "median_ape", "bias", "spearman", "rows"}


def test_a_mark_of_the_encoding_and_words_for_nothing_are_no_cells(tmp_path: Path) -> None:
    path = table(tmp_path, ROW.replace(",0.5,,,,,", ",0.5,n/a,-,,,"))
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    (row,) = read_table(path)
    assert row.case is not None and row.measured.samples_per_second is None


def test_a_precision_without_a_price_is_skipped(tmp_path: Path) -> None:
    for word, known in (("int4", False), ("amp_bf16", True), ("MXFP8", True)):
        (row,) = read_table(table(tmp_path, f"{ROW},{word}", header=f"{HEADER},precision"))
        assert (row.case is not None) == known and known != ("'int4' is not known" in row.reason)


def test_a_mixture_of_experts_by_name_has_its_experts(tmp_path: Path) -> None:
    row = ROW.replace("GPT,24,1024,16,1024,50257", "Mixtral-8x7B,32,4096,32,4096,")
    (found,) = read_table(table(tmp_path, row))
    assert found.case is not None
    work = workload_of(found.case)
    assert work.experts == 8 and work.vocabulary == 32_000
    assert work.parameters == pytest.approx(46.7e9, rel=0.01)


def test_attention_is_fused_on_devices_that_are_younger(tmp_path: Path) -> None:
    for site, fused in (("h200-nodes", True), ("a100-nvswitch-800g", False)):
        (row,) = read_table(table(tmp_path, ROW.replace("a100-nvswitch-800g", site)))
        assert row.case is not None
        made = plan_of(row.case, SITES, DEFAULT)
        assert (made.plan.workload.attention == "fused") == fused
        assert any("attention" in text for text in made.assumed) == fused


def test_a_schedule_that_is_not_known_is_said(tmp_path: Path) -> None:
    for word, said in (("dualpipe", 1), ("1F1B", 0)):
        (row,) = read_table(table(tmp_path, f"{ROW},{word}", header=f"{HEADER},schedule"))
        assert row.case is not None
        assert sum("schedule" in text for text in row.case.assumed) == said
