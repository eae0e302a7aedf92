"""`holmes export`: the model of a run in the format of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from holmes.cli.options import JsonOption, console, described, emit


def register(app: typer.Typer) -> None:
    app.command(
        "export",
        help=described(
            "Write a run's model as a folder that `transformers` loads.",
            "holmes export runs/mine --format hf -o my-model",
        ),
    )(command)


def command(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A run folder, or one checkpoint's folder.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
    format: Annotated[  # the option's name
        Literal["hf"], typer.Option("--format", help="hf: config.json, safetensors, tokenizer.")
    ] = "hf",
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    written = api.export(path, output, format=format)
    if json_output:
        emit(written)
        return
    size = written["bytes"] / 1e6
    line = f"wrote {written['folder']}: step {written['step']}, {written['tensors']} tensors, "
    console().print(f"{line}{size:.1f} MB", markup=False)
