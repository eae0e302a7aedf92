"""`holmes verify`: the parallel run against the plain single-process run."""

from __future__ import annotations

from typing import Annotated

import typer

from holmes.cli.job_options import JobOptions, PlacementOption, takes_job
from holmes.cli.options import console, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "Compare a job's parameters with the plain single-process run.",
        "holmes verify examples/demo.yaml --steps 20",
        "holmes verify examples/demo.yaml parallel.pipeline=4 parallel.data=1",
    )
    app.command("verify", help=text)(takes_job(command))


def command(
    given: JobOptions,
    placement: PlacementOption = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps before comparing.")] = 20,
) -> None:
    from holmes import api

    job = given.resolve(placement=placement)
    if given.shows_config(job):
        return
    result = api.verify(job, steps=steps, console=console())
    if given.json_output:
        emit(result)
    else:
        from holmes.report.terminal import show_verification

        show_verification(result)
