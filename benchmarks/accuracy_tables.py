"""Put the tables of the accuracy record into docs/accuracy.md: nobody types a number."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"


def errors(data: dict[str, Any], part: str) -> str:
    """Scores of every table, held-out rows apart from fitted ones."""
    lines = [
        "| table | rows | n | mean error | median | bias | rank correlation |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, table in data["tables"].items():
        for group, score in table[part].items():
            cells = [_percent(score[key]) for key in ("mape", "median_ape", "bias")]
            rank = "-" if score["spearman"] is None else f"{score['spearman']:.3f}"
            lines.append(f"| `{name}` | {group} | {score['n']} | {' | '.join(cells)} | {rank} |")
    return "\n".join(lines)


def splits(data: dict[str, Any]) -> str:
    """What was held out of each table, how many rows have no score, how wide intervals are."""
    lines = [
        "| table | held out | rows without a time | inside the interval | false fits |",
        "|---|---|---|---|---|",
    ]
    for name, table in data["tables"].items():
        lines.append(
            f"| `{name}` | {table['held_out']} | {table['skipped']} | "
            f"{_percent(table['inside_interval'])} | {len(table['false_fits'])} |"
        )
    return "\n".join(lines)


def sweeps(data: dict[str, Any]) -> str:
    """How well the predictions choose a layout."""
    lines = [
        "| table | sweeps | rank correlation within a sweep | mean regret | worst regret |",
        "|---|---|---|---|---|",
    ]
    for name, table in data["tables"].items():
        if found := table["choices"]:
            rank = found["rank_correlation"]
            lines.append(
                f"| `{name}` | {found['sweeps']} | {'-' if rank is None else f'{rank:.3f}'} | "
                f"{_percent(found['mean_regret'])} | {_percent(found['worst_regret'])} |"
            )
    return "\n".join(lines)


def cells(data: dict[str, Any]) -> str:
    """What of a table's errors belongs to width, tensor degree and micro-batch."""
    found = data["tables"]["a100_one_node"]["cells"]
    lines = ["| hidden size | tp | micro-batch | mean error |", "|---|---|---|---|"]
    lines += [
        f"| {one['hidden']} | {one['tp']} | {one['micro']} | {_percent(one['error'])} |"
        for one in found["largest"]
    ]
    explained, without = _percent(found["explained"]), _percent(found["mape_without"])
    lines.append(
        f"\nAll {found['cells']} combinations explain {explained} of the variance of the errors;\n"
        f"without the mean of each, the mean error would be {without}."
    )
    return "\n".join(lines)


def beside(_: dict[str, Any]) -> str:
    """Another estimator on the same rows."""
    found = record.read("beside")
    if found is None:
        raise SystemExit("no record: run benchmarks/beside.py --python PATH first")
    lines = [
        "| table | rows | estimator | mean error | median | bias | rows per CPU-second |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, pair in found["tables"].items():
        for tool, score in (("Holmes", pair["holmes"]), (pair["other"]["tool"], pair["other"])):
            cells = [_percent(score[key]) for key in ("mape", "median_ape", "bias")]
            rate = score.get("layouts_per_cpu_second")
            cells.append("-" if rate is None else f"{rate:.0f}")
            lines.append(f"| `{name}` | {score['n']} | {tool} | {' | '.join(cells)} |")
    return "\n".join(lines)


def worst(data: dict[str, Any]) -> str:
    """The rows with the largest errors of every table."""
    lines = ["| table | line | run | predicted | measured | error |", "|---|---|---|---|---|---|"]
    for name, table in data["tables"].items():
        for row in table["worst"]:
            lines.append(
                f"| `{name}` | {row['row']} | {row['case']} | {row['predicted']:.4g} | "
                f"{row['measured']:.4g} | {_percent(row['error'])} |"
            )
    return "\n".join(lines)


def coefficients(data: dict[str, Any]) -> str:
    """Prior, bounds and fitted value of every coefficient."""
    lines = ["| coefficient | prior | bounds | fitted |", "|---|---|---|---|"]
    held_back = {*data["fit"]["at_bound"], *data["later"]["at_bound"]}
    for one in [*data["fit"]["coefficients"], *data["later"]["coefficients"]]:
        paths = one["path"].split("|")
        name = paths[0].removeprefix("compute.")
        if len(paths) > 1:
            name += f" and {len(paths) - 1} kinds more"
        bounds = f"{one['low']:g} to {one['high']:g}"
        held = " (at a bound)" if one["path"] in held_back else ""
        lines.append(f"| {name} | {one['prior']:g} | {bounds} | {one['fitted']:.4g}{held} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "time": lambda data: errors(data, "time"),
    "memory": lambda data: errors(data, "memory"),
    "splits": splits,
    "beside": beside,
    "sweeps": sweeps,
    "cells": cells,
    "worst": worst,
    "coefficients": coefficients,
}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f} %"


def main() -> None:
    """Rewrite every marked table of the page."""
    data = record.read("accuracy")
    if data is None:
        raise SystemExit("no record: run benchmarks/accuracy.py first")
    text = PAGE.read_text()
    for name, render in TABLES.items():
        block = f"<!-- table:{name} -->\n{render(data)}\n<!-- end -->"
        pattern = re.compile(rf"<!-- table:{name} -->.*?<!-- end -->", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{PAGE} has no place for the table {name!r}")
        text = pattern.sub(lambda _: block, text, count=1)  # noqa: B023
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
