"""`holmes bench`: the benchmarks of this checkout."""

from __future__ import annotations

from typing import Annotated

import typer

from holmes.cli.options import JsonOption, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "List the benchmarks of this checkout, or run one.",
        "holmes bench",
        "holmes bench reliability -- --only kill,cut",
    )
    app.command("bench", help=text)(command)


def command(
    name: Annotated[str | None, typer.Argument(help="Which one; left out, all are listed.")] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Given to the benchmark, after --, e.g. -- --only kill,cut"),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    from holmes.api.bench import benchmarks, run_benchmark

    if name is not None:
        record = run_benchmark(name, arguments or ())
        if json_output:
            emit(record)
        return
    listed = benchmarks()
    if json_output:
        rows = [{"name": one.name, "about": one.about, "headline": one.headline} for one in listed]
        emit({"benchmarks": rows})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what it measures", "its record says", box=None)
    for one in listed:
        table.add_row(one.name, one.about, one.headline or "no record")
    Console().print(table)
