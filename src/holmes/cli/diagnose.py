"""`holmes diagnose`: what is wrong with a run, where, how sure, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "Say what failed or slowed a run, and where.",
        "holmes diagnose runs/demo",
        "holmes diagnose runs/demo --json",
    )
    app.command("diagnose", help=text)(command)


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    found = api.diagnose(run)
    if json_output:
        emit(found)
        return
    from rich.console import Console

    out = Console()
    verdict = found["verdict"]
    places = [f"{key} {verdict[key]}" for key in ("rank", "host", "nic", "link") if verdict[key]]
    if verdict["rank"] == 0:
        places.insert(0, "rank 0")
    where = f": {', '.join(places)}" if places else ""
    out.print(f"{verdict['class']}{where} (confidence {verdict['confidence']})", markup=False)
    for line in found["evidence"]:
        out.print(f"  {line}", markup=False)
    out.print(f"next: {found['advice']}", markup=False)
