"""Tables in the terminal: they fit 100 columns, need no colour, and hold the numbers."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from holmes.report.terminal import (
    groups_table,
    plan_table,
    show_plan,
    summary_table,
    verification_table,
)
from tests.report import fixtures


def show(table: Table, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    assert "\x1b" not in out.getvalue()
    assert all(len(line) <= width for line in out.getvalue().splitlines())
    return out.getvalue()


def test_the_plan_in_a_table() -> None:
    text = show(plan_table(fixtures.plan()))
    for part in ("gpt-5m", "cluster order", "0, 1, 2, 3", "6, 4 (exact)", "550 ms", "96 MB"):
        assert part in text


def test_groups_in_a_table_most_bytes_first() -> None:
    text = show(groups_table(fixtures.plan()))
    rows = [line.split()[0] for line in text.splitlines() if "." in line]
    assert rows[:2] == ["data.s0", "data.s1"]
    assert "InfiniBand" in text and "roce0" in text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_long_names_fold_instead_of_overflowing(width: int) -> None:
    plan = replace(fixtures.plan(), name="x" * 300)
    table = plan_table(plan)
    table.title = None
    show(table, width)
    folder_like = {"step_seconds": {"median": 0.5}, "placement": "y" * 200}
    assert "500 ms" in show(summary_table(folder_like), width)


def test_a_comparison_in_a_table(tmp_path: Path) -> None:
    runs = {
        style: fixtures.run_folder(tmp_path / style, fixtures.plan(style))
        for style in ("holmes", "megatron")
    }
    text = show(summary_table({**runs, "speedup": 2.2345}))
    assert "holmes against megatron: 2.23× faster" in text
    assert "7.600 → 4.631" in text
    assert "formula 36.8 MB" in text
    assert "shaped, real" in text
    assert "no gain claimed" in show(summary_table({**runs, "speedup": 1.02}))


def test_a_virtual_run_has_no_loss(tmp_path: Path) -> None:
    run = fixtures.run_folder(tmp_path / "run", fixtures.plan(), devices="virtual")
    assert "none: virtual devices" in show(summary_table(run))


def test_markup_in_names_is_shown_as_it_is() -> None:
    plan = replace(fixtures.plan(model="[red]model[/red]"), name="[bold]plan[/]")
    text = show(plan_table(plan))
    assert "[red]model[/red]" in text and "[bold]plan[/]" in text


def test_the_reasons_are_printed_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(fixtures.plan(), explain=False)
    assert "One extra warm-up forward" not in capsys.readouterr().out
    show_plan(fixtures.plan(), explain=True)
    assert "One extra warm-up forward" in capsys.readouterr().out


def test_a_verification_shows_the_worst_parameters_first() -> None:
    rows = [{"name": f"blocks.{i}.weight", "max_relative_difference": i * 1e-8} for i in range(30)]
    result = {
        "max_relative_difference": 2.9e-7,
        "max_gradient_difference": 4e-8,
        "bit_equal": False,
        "parameters": rows,
    }
    text = show(verification_table(result))
    assert text.index("blocks.29.weight") < text.index("blocks.28.weight")
    assert "blocks.3.weight" not in text and "and 20 more" in text
    assert "2.90e-07, not bit-equal" in text and "of gradients 4.00e-08" in text
