"""`holmes rehearse`: run a plan on emulated hosts with shaped links, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from holmes.cli.job_options import JobOptions, NameOption, takes_job
from holmes.cli.options import console, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "Run a job on emulated hosts with shaped links.",
        "holmes rehearse examples/demo.yaml",
        "holmes rehearse examples/demo.yaml --placement holmes --placement megatron",
        "holmes rehearse examples/demo.yaml --inject 'kill:rank=2@step=5'",
    )
    app.command("rehearse", help=text)(takes_job(command))


def command(
    given: JobOptions,
    placement: Annotated[
        list[str] | None,
        typer.Option(help="holmes, megatron or scattered; give several to compare them."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps to run.")] = None,
    name: NameOption = None,
    inject: Annotated[
        list[str] | None,
        typer.Option(
            "--inject",
            metavar="FAULT",
            help="Break something, e.g. kill:rank=2@step=5,phase=backward; may be repeated.",
        ),
    ] = None,
) -> None:
    from holmes import api

    chosen: list[str | None] = [*dict.fromkeys(placement or ())] or [None]
    jobs = [given.resolve(placement=each, steps=steps, name=name) for each in chosen]
    if given.shows_config(jobs[0]):
        return
    result = api.rehearse(jobs, console=console(), inject=inject or ())
    if given.json_output:
        emit(result)
