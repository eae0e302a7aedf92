"""Calibrations from own runs: a trace of a slower machine, and a table of runs."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from holmes.accuracy.calibrate import (
    calibrate_table,
    calibrate_trace,
    read_calibration,
    write_calibration,
)
from holmes.accuracy.calibrate_network import with_traced_links
from holmes.accuracy.fitting import log_errors, timed_cases
from holmes.accuracy.table import read_table
from holmes.accuracy.validate import validate
from holmes.cost.calibration import DEFAULT, LAB, LinkCalibration
from holmes.cost.model import CostModel
from holmes.errors import DataError, WriteError
from holmes.events.trace import append_trace, read_trace
from holmes.hardware.topology import Topology
from holmes.plan.codec import read_plan, write_plan
from holmes.schedule.instruction import Op
from holmes.simulate.events import simulate
from tests.accuracy.test_tables import HEADER, ROW, SITES
from tests.simulate.plans import Case, make

SLOWER = 3.0


def run_folder(folder: Path, schedule: str = "1f1b") -> Path:
    """A run that took three times as long as its calibration predicts."""
    case = Case((1.0,) * 2, (2.0,) * 2, 4, dp=2, parameters=1_000_000, boundary_bytes=1e3,
                schedule=schedule)  # fmt: skip
    plan, _ = make(case)
    plan = replace(plan, calibration=LAB.to_dict())
    cost = CostModel(Topology(plan.site), plan.workload, LAB)
    spans = [
        replace(span, start=round(span.start * SLOWER), stop=round(span.stop * SLOWER))
        for span in simulate(plan, cost).spans
    ]
    write_plan(plan, folder / "plan.json")
    append_trace(folder / "trace.jsonl", spans)
    return folder


@pytest.mark.parametrize("schedule", ["1f1b", "zero-bubble"])
def test_a_trace_scales_the_compute_of_its_kind(tmp_path: Path, schedule: str) -> None:
    """Also where the backward runs in two parts."""
    folder = run_folder(tmp_path, schedule)
    made = calibrate_trace(folder)
    assert made == calibrate_trace(folder / "trace.jsonl")
    plan, _ = make(Case((1.0,) * 2, (2.0,) * 2, 4, dp=2, parameters=1_000_000))
    topology = Topology(plan.site)
    before, after = (
        CostModel(topology, plan.workload, calibration).block_time(0, topology.devices[0], 1)
        for calibration in (LAB, made)
    )
    assert after.forward == pytest.approx(SLOWER * before.forward, rel=1e-3)
    assert after.backward == pytest.approx(SLOWER * before.backward, rel=1e-3)
    steps = [
        CostModel(topology, plan.workload, calibration).optimizer_seconds(1e6, topology.devices[0])
        for calibration in (LAB, made)
    ]
    assert steps[1] > steps[0]
    assert folder.name in made.source


def test_a_trace_tells_the_parts_of_a_backward_apart(tmp_path: Path) -> None:
    """Weights' gradients took six times what was predicted, everything else three times."""
    folder = run_folder(tmp_path, "zero-bubble")
    spans = [
        replace(span, stop=span.start + 2 * (span.stop - span.start))
        if span.op == Op.WEIGHT_GRADIENT.value
        else span
        for span in read_trace(folder / "trace.jsonl").spans
    ]
    (folder / "trace.jsonl").unlink()
    append_trace(folder / "trace.jsonl", spans)
    plan = read_plan(folder / "plan.json")
    topology = Topology(plan.site)
    before, after = (
        CostModel(topology, plan.workload, calibration)
        for calibration in (LAB, calibrate_trace(folder))
    )
    slot, one = topology.devices[0], (1, 2)
    weight = before.weight_seconds(one, slot, 1)
    assert after.weight_seconds(one, slot, 1) == pytest.approx(2 * SLOWER * weight, rel=1e-3)
    whole = after.blocks_time(one, slot, 1).in_parts().backward
    extra = whole - SLOWER * before.blocks_time(one, slot, 1).backward
    assert extra == pytest.approx(SLOWER * weight, rel=1e-3)


def test_a_trace_shows_how_slow_its_links_were(tmp_path: Path) -> None:
    """Traffic at half the rate comes back as half the efficiency; gloo runs keep their links."""
    fast = LinkCalibration(0.8, 1e-5, 1e-5)
    slow = LinkCalibration(0.4, 2e-5, 2e-5)
    case = Case((0.01,) * 2, (0.02,) * 2, 4, dp=2, parameters=10_000_000, boundary_bytes=1e7)
    plan, _ = make(case)
    fabrics = ("infiniband", "roce", "ethernet", "intra-node")
    planned = replace(LAB, collectives="ring", network=dict.fromkeys(fabrics, fast))
    ran = replace(planned, network=dict.fromkeys(fabrics, slow))
    plan = replace(plan, calibration=planned.to_dict())
    write_plan(plan, tmp_path / "plan.json")
    topology = Topology(plan.site)
    spans = simulate(plan, CostModel(topology, plan.workload, ran)).spans
    append_trace(tmp_path / "trace.jsonl", spans)
    made = calibrate_trace(tmp_path)
    used = {group.transport.fabric.value for group in plan.groups if group.transport.fabric}
    assert used
    for name in fabrics:
        expected = slow if name in used else fast
        assert made.network[name].efficiency == pytest.approx(expected.efficiency, rel=1e-3)
        assert made.network[name].step_seconds == pytest.approx(expected.step_seconds, rel=1e-3)
    assert "links" in made.source
    cost = CostModel(topology, plan.workload, replace(planned, collectives="direct"))
    assert with_traced_links(plan, cost, spans) is cost.calibration


def test_calibrations_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(DEFAULT, path)
    assert read_calibration(path) == DEFAULT
    with pytest.raises(WriteError):
        write_calibration(DEFAULT, tmp_path / "absent" / "calibration.json")
    for text, message in (("{", "not JSON"), ("{}", "bad calibration")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_calibration(path)
    with pytest.raises(DataError, match="cannot read"):
        read_calibration(tmp_path / "absent.json")


def test_a_trace_without_compute_is_refused(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    lines = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["op"] not in ("forward", "backward")]
    (folder / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    with pytest.raises(DataError, match="no forward or backward"):
        calibrate_trace(folder)


def test_a_table_of_a_slower_machine_is_learnt(tmp_path: Path) -> None:
    """Times made with a lower matmul fraction come back with a small error."""
    rows = [
        f"GPT,24,{hidden},16,1024,50304,a100-nvswitch-800g,8,1,1,8,{micro},{64 * micro},none,"
        "1.0,,,,,"
        for hidden in (2048, 4096)
        for micro in (4, 8)
    ]
    path = tmp_path / "own.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    cases = timed_cases(read_table(path), SITES, DEFAULT)
    slow = replace(DEFAULT, compute=replace(DEFAULT.compute, matmul_fraction=0.7))
    lines = list(csv.DictReader(path.open()))
    for line, error in zip(lines, log_errors(cases, slow), strict=True):
        line["iter_time_s"] = str(2.718281828459045**error)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER.split(","))
        writer.writeheader()
        writer.writerows(lines)
    made = calibrate_table(path, SITES)
    before, after = (validate(path, SITES, one).score.mape for one in (DEFAULT, made))
    assert before is not None and after is not None
    assert after < 0.05 < before
    assert made.name == "own" and "4 runs" in made.source


@pytest.mark.parametrize(
    ("rows", "said"),
    [([], "no rows"), ([ROW.replace(",full,0.5,", ",full,,")], "no row has both")],
    ids=["rows", "times"],
)
def test_a_table_without_something_to_fit_is_refused(
    tmp_path: Path, rows: list[str], said: str
) -> None:
    path = tmp_path / "own.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    with pytest.raises(DataError, match=said):
        calibrate_table(path, SITES)
