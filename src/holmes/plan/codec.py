"""Plan to JSON and back, validated on the way in."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from holmes.errors import DataError, WriteError
from holmes.plan.plan import SCHEMA_VERSION, Plan


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-ready values."""
    return _adapter().dump_python(plan, mode="json")  # type: ignore[no-any-return]


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan file.

    Raises:
        WriteError: when the file cannot be written.
    """
    if path.is_dir():  # `/` and `.` have no name to write beside
        raise WriteError(
            "cannot write the plan: it is a folder",
            where=str(path),
            next_step="give the name of a file, such as plan.json",
        )
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_text(json.dumps(plan_to_dict(plan), indent=1) + "\n")
        beside.replace(path)  # other ranks may be reading the one that is there
    except OSError as error:
        raise WriteError(f"cannot write the plan: {error.strerror}", where=str(path)) from None


def read_plan(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        DataError: when the file is missing, is no JSON, or is no plan of this version.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise DataError(
            f"cannot read the plan: {error.strerror}",
            where=str(path),
            next_step="write one with `holmes plan JOB -o PLAN.json`",
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"the plan is not JSON: {error}", where=str(path)) from None
    return plan_from_dict(data, where=str(path))


def plan_from_dict(data: Any, *, where: str) -> Plan:
    """Build a plan from JSON values.

    Raises:
        DataError: naming the field that is wrong.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"plan schema version {version!r}, this holmes reads {SCHEMA_VERSION}",
            where=where,
            next_step="plan again with `holmes plan`",
        )
    try:
        return _adapter().validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"bad plan: {first['msg']}", where=f"{where}: {place}") from None
