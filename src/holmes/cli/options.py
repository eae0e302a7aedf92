"""What the commands share: output as text or JSON, and help that begins with examples."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object.")]


def console() -> Console:
    """Where people read: standard error, so that stdout stays for results."""
    from rich.console import Console

    return Console(stderr=True)


def show(what: Any) -> None:
    """Print a result for people on stdout: a table, or a line as it stands."""
    from rich.console import Console

    Console().print(what, markup=False, highlight=False, soft_wrap=isinstance(what, str))


def emit(data: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(data, allow_nan=False) + "\n")


def described(sentence: str, *examples: str) -> str:
    """Help of a command: one sentence, then examples, before the options."""
    lines = "\n".join(f"  {example}" for example in examples)
    return f"{sentence}\n\n\b\nExamples:\n{lines}"
