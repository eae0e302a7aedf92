"""`holmes watch`: a run while it goes on, in the terminal or for Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, console, described, emit
from holmes.errors import UsageError


def register(app: typer.Typer) -> None:
    text = described(
        "Watch a run: loss, step time against prediction, traffic, memory, ranks.",
        "holmes watch runs/demo",
        "holmes watch runs/demo --once --json",
        "holmes watch runs/demo --prometheus 9400",
    )
    app.command("watch", help=text)(command)


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.1, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    prometheus: Annotated[
        int | None,
        typer.Option(
            "--prometheus", metavar="PORT", min=0, max=65535, help="Serve /metrics instead."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Where to serve [127.0.0.1].")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    if prometheus is None and address is not None:
        raise UsageError("--address has an effect only with --prometheus")
    if prometheus is not None:
        if once or json_output:
            raise UsageError("--prometheus serves until it is ended: no --once, no --json")
        api.serve_metrics(run, prometheus, address, console())
    elif json_output:
        emit(api.watch(run))
    else:
        api.watch_live(run, every=every, once=once)
