"""`holmes doctor`: is this machine, or every machine of a site, fit to train?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "Check this machine, or all machines under torchrun, and say what to do.",
        "holmes doctor",
        "holmes doctor --site site.yaml",
        "torchrun --nnodes=2 ... --no-python holmes doctor --site site.yaml --communicators",
    )
    app.command("doctor", help=text)(command)


def command(
    site: Annotated[
        str | None, typer.Option("--site", help="Site file or catalogue name to compare with.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--output", help="Folder that runs are to be written to.")
    ] = Path("runs"),
    port: Annotated[
        int | None, typer.Option("--port", min=1024, max=65535, help="Rendezvous port [29500].")
    ] = None,
    deadline: Annotated[
        float, typer.Option("--deadline-seconds", min=1, help="Longest wait for another machine.")
    ] = 120.0,
    communicators: Annotated[
        bool,
        typer.Option(
            "--communicators", help="Also open an RDMA and a socket group, in both orders."
        ),
    ] = False,
    json_output: JsonOption = False,
) -> int:
    from holmes import api

    found = api.doctor(
        site, folder=folder, port=port, deadline_seconds=deadline, communicators=communicators
    )
    if found is None:
        return 0
    if json_output:
        emit(found)
    else:
        from holmes.report.doctor import show_findings

        show_findings(found)
    return int(found["exit_code"])
