"""Files beside runs: schemas for editors, and text that a command writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from holmes.errors import WriteError


def schema(what: Literal["site", "job"]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a site or job file."""
    from holmes.hardware.read import site_schema
    from holmes.job.job import job_schema

    return site_schema() if what == "site" else job_schema()


def write_text(path: Path, text: str) -> None:
    """Write a text file.

    Raises:
        WriteError: when it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteError(f"cannot write: {error.strerror}", where=str(path)) from None
