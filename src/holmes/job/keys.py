"""The dotted keys of a job file, from its models."""

from __future__ import annotations

from pydantic import BaseModel

from holmes.job.job import Job


def job_keys() -> tuple[str, ...]:
    """Every key that an override can set, such as ``train.steps``; sizes of the model are
    those of its family and are left out."""
    return tuple(_keys(Job, ""))


def _keys(model: type[BaseModel], before: str) -> list[str]:
    found: list[str] = []
    for name, field in model.model_fields.items():
        key = before + (field.alias or name)
        below = field.annotation
        if isinstance(below, type) and issubclass(below, BaseModel):
            found += _keys(below, key + ".")
        else:
            found.append(key)
    return found
