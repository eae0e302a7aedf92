"""`holmes validate`: predictions of published or own runs against what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, described, emit

SitesOption = Annotated[
    Path, typer.Option("--sites", help="Folder of site files; a row's `site` names one of them.")
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option("--calibration", help="Calibration file to predict with [the built-in one]."),
]


def register(app: typer.Typer) -> None:
    text = described(
        "Predict a table of measured runs and score the predictions.",
        "holmes validate runs.csv --sites sites",
        "holmes validate runs.csv --sites sites --calibration mine.json",
    )
    app.command("validate", help=text)(command)


def command(
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="Table of measured runs.")],
    sites: SitesOption,
    calibration: CalibrationOption = None,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    result = api.validate(table, sites=sites, calibration=calibration)
    if json_output:
        emit(result)
        return
    from holmes.accuracy.show import show_validation

    show_validation(result)
