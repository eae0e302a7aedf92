"""Errors of the cost model on published runs, by table; `--fit` also fits its coefficients anew.

What is fitted and what is held out stands in ``SPLITS``: hold-outs are whole
models or whole configuration families. The tables come from ``benchmarks/tables``.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

import record
from holmes.accuracy.fitting import TimedCase, fitted, timed_cases
from holmes.accuracy.score import Scored, score_of
from holmes.accuracy.sweeps import choices
from holmes.accuracy.table import Case, Row, read_table
from holmes.accuracy.validate import Validation, validate_rows
from holmes.cost.calibration import CAPPED, DEFAULT, HOPPER, Calibration
from holmes.cost.fit import Coefficient

TABLES = Path(__file__).parent / "tables"
SITES = TABLES / "sites"
FITTED_MODELS = {"GPT l24h1024", "GPT l24h2048", "GPT l16h1024", "GPT l16h2048"}
WORST = 3
CELLS = 4


@dataclass(frozen=True)
class Split:
    """One table: which rows were fitted to, how much they weigh, and what the rest is."""

    table: str
    fitted: Callable[[Case], bool]
    weight: int
    every: int
    held_out: str


SPLITS = (
    Split(
        "a100_one_node",
        lambda case: case.model in FITTED_MODELS,
        1,
        4,
        "the models of 20 layers x 1024 and 12 layers x 2048",
    ),
    Split("a100_many_nodes_18b", lambda case: False, 1, 1, "all"),
    Split(
        "a100_selective_recompute",
        lambda case: case.model in {"GPT-22B", "GPT-175B"},
        10,
        1,
        "530 B and 1 T",
    ),
    Split(
        "h100_llama3_8b",
        lambda case: case.devices in (8, 64) and case.cp == 1 and case.precision == "bf16"
        and not case.async_tp and case.sequence == 8192,
        3,
        1,
        "bf16 on 128 devices, asynchronous tensor parallelism, all fp8, all context parallelism, "
        "H200",
    ),
    Split("gh200_gpt_neo", lambda case: False, 1, 1, "all, for time; its memory figures "
          "chose its precision and, at micro-batch 1, set the size of a communicator"),
    Split("holmes_four_nodes", lambda case: False, 1, 1, "all"),
)  # fmt: skip

COEFFICIENTS = (
    Coefficient("compute.matmul_fraction", 0.92, 0.75, 1.0, 0.2),
    Coefficient("compute.memory_fraction", 0.85, 0.6, 1.0, 0.2),
    Coefficient("compute.tile_half", 30.0, 1.0, 100.0),
    Coefficient("compute.ramp", 100.0, 8.0, 400.0),
    Coefficient("compute.unaligned", 0.3, 0.1, 1.0, 0.5),
    Coefficient("compute.gap_seconds", 3e-6, 5e-7, 8e-6),
    Coefficient("compute.host_seconds", 3.5e-5, 5e-6, 1e-4),
    Coefficient("compute.step_launch_seconds", 5e-3, 1e-4, 5e-2, 1.5),
    Coefficient("compute.optimizer_passes", 1.5, 1.0, 4.0, 0.7),
    Coefficient("compute.transfer_seconds", 1e-4, 2e-5, 1e-3),
    Coefficient(f"compute.sustained.{CAPPED}", 0.6, 0.4, 0.8, 0.3),
    Coefficient("|".join(f"compute.attention_of.{kind}" for kind in HOPPER), 0.45, 0.3, 0.8, 0.2),
    Coefficient("compute.compiled_share", 0.8, 0.2, 1.0, 0.3),
    Coefficient("compute.overlap_slowdown", 0.1, 0.01, 0.5, 0.7),
    Coefficient("compute.straggler", 0.002, 2e-4, 0.01, 0.7),
)
"""What is fitted: place, prior, bounds, tolerance (see holmes.cost.fit)."""
LATER = (Coefficient("compute.arrival_seconds", 5e-6, 1e-7, 5e-5),)
"""Fitted to the same runs after the others, which stay as they are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="fit again and print the coefficients")
    parser.add_argument("--fit-later", action="store_true", help="only what is fitted last")
    asked = parser.parse_args()
    rows = {split.table: read_table(TABLES / f"{split.table}.csv") for split in SPLITS}
    before = record.read("accuracy") or {}
    figures: dict[str, Any] = {"tables": {}, **{key: before.get(key) for key in ("fit", "later")}}
    if asked.fit:
        start = replace(DEFAULT, compute=replace(DEFAULT.compute, arrival_seconds=0.0))
        figures["fit"] = _fit(rows, start, COEFFICIENTS)
    if asked.fit or asked.fit_later:
        figures["later"] = _fit(rows, DEFAULT, LATER)
    for split in SPLITS:
        figures["tables"][split.table] = _table(split, rows[split.table])
    record.write("accuracy", figures)


def _fit(
    rows: dict[str, Sequence[Row]], start: Calibration, coefficients: Sequence[Coefficient]
) -> dict[str, Any]:
    """Fit from the priors and say what came out."""
    used: list[TimedCase] = []
    for split in SPLITS:
        mine = [row for row in rows[split.table] if row.case and split.fitted(row.case)]
        used += timed_cases(mine, SITES, DEFAULT)[:: split.every] * split.weight
    found = fitted(used, start, coefficients)
    for path, value in found.values.items():
        print(f"{path} = {value:.4g}")
    print("at a bound:", ", ".join(found.at_bound) or "none")
    return {
        "runs": len(used),
        "at_bound": list(found.at_bound),
        "interval": found.calibration.interval,
        "coefficients": [{**asdict(one), "fitted": found.values[one.path]} for one in coefficients],
    }


def _table(split: Split, rows: Sequence[Row]) -> dict[str, Any]:
    """Scores of one table under the built-in calibration, held-out rows apart."""
    whole = validate_rows(rows, SITES, DEFAULT, name=split.table)
    cases = {row.row: row.case for row in rows if row.case is not None}
    held = {number for number, case in cases.items() if not split.fitted(case)}
    chosen = choices(cases, whole.time)
    groups = {"held out": held, "fitted": set(cases) - held}
    figures = {
        "held_out": split.held_out,
        "fitted_every": split.every,
        "time": _groups(whole, groups, memory=False),
        "memory": _groups(whole, groups, memory=True),
        "false_fits": list(whole.false_fits),
        "inside_interval": whole.inside_interval,
        "cells": _cells(cases, whole.time),
        "choices": None if chosen is None else asdict(chosen),
        "skipped": len(whole.skipped),
        "worst": [
            {**asdict(row), "case": _name(cases[row.row])}
            for row in sorted(whole.time, key=lambda row: -abs(row.error))[:WORST]
        ],
    }
    print(split.table, figures["time"], figures["memory"] or "", figures["choices"] or "")
    return figures


def _cells(cases: dict[int, Case], rows: Sequence[Scored]) -> dict[str, Any]:
    """How much of the log errors follows from width, tensor degree and micro-batch alone: what
    models of other depths, pipelines and batches share is no noise, but of those three."""
    cells: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for row in rows:
        case = cases[row.row]
        cells[case.hidden, case.tp, case.micro].append(math.log1p(row.error))
    errors = [error for found in cells.values() for error in found]
    rest = [error - fmean(found) for found in cells.values() for error in found]
    return {
        "cells": len(cells),
        "explained": 1 - pvariance(rest) / pvariance(errors),
        "mape_without": fmean(abs(math.expm1(error)) for error in rest),
        "largest": [
            {"hidden": h, "tp": tp, "micro": micro, "error": math.expm1(fmean(found))}
            for (h, tp, micro), found in sorted(
                cells.items(), key=lambda item: -abs(fmean(item[1]))
            )[:CELLS]
        ],
    }


def _groups(whole: Validation, groups: dict[str, set[int]], *, memory: bool) -> dict[str, Any]:
    rows = whole.memory if memory else whole.time
    found = {
        name: score_of([row for row in rows if row.row in numbers]).to_dict()
        for name, numbers in groups.items()
    }
    return {name: score for name, score in found.items() if score["n"]}


def _name(case: Case) -> str:
    text = f"{case.model}, tp {case.tp} x pp {case.pp} x dp {case.dp}, micro {case.micro}"
    return f"{text}, {case.precision}" if case.precision != "mixed" else text


if __name__ == "__main__":
    main()
