"""Job: what to train, on what, how long. One YAML file, or the options of a command."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from holmes.hardware.site import Name
from holmes.hardware.yaml_reader import shown
from holmes.job.draft import named_model
from holmes.job.sections import (
    Batch,
    Data,
    Launch,
    Optimizer,
    Parallel,
    RehearsalOptions,
    Section,
    Text,
    Train,
)
from holmes.plan.layout import BUNDLES, Wishes

PlacementName = Literal["holmes", "megatron", "scattered"]
ModelValue = bool | int | float | str | None


def _preset(value: Any) -> Any:
    """``model: gpt-3.6b`` means the preset of that name, a path the model in that folder."""
    return named_model(value) if isinstance(value, str) else value


def _auto(value: Any) -> Any:
    """``parallel: auto`` means that nothing is fixed."""
    return {} if value is None or value == "auto" else value


class Job(Section):
    """One training job.

    ``model`` holds ``family`` (default: that of the preset or folder, else gpt) and ``preset``,
    ``from`` (a Hugging Face folder) or sizes; the model family checks the sizes. ``site`` is a
    path, a catalogue name or a whole site.
    """

    name: Name = "run"
    site: Text | dict[str, Any]
    model: Annotated[dict[str, ModelValue], BeforeValidator(_preset), Field(min_length=1)]
    data: Data = Data()
    batch: Batch
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    launch: Launch = Launch()
    parallel: Annotated[Parallel, BeforeValidator(_auto)] = Parallel()
    placement: PlacementName | None = None
    """Named settings of order, transport, partition and overlap; keys of `parallel` win."""
    rehearsal: RehearsalOptions = RehearsalOptions()
    output: Text = "runs"
    """Folder in which the run's folder is made."""

    @field_validator("model")
    @classmethod
    def _bounded(cls, model: dict[str, ModelValue]) -> dict[str, ModelValue]:
        for key, value in model.items():
            if len(key) > 64 or (isinstance(value, str) and len(value) > 4096):
                raise ValueError(f"`{shown(key)}` is too long")
            if isinstance(value, int | float) and not (abs(value) <= 1e15):
                raise ValueError(f"`{shown(key)}` should be a number of at most 1e15")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"`{shown(key)}` should be finite")
        return model

    @model_validator(mode="after")
    def _computing(self) -> Job:
        if self.rehearsal.devices == "virtual" and (self.parallel.tensor_chunks or 1) > 1:
            raise ValueError(
                "`parallel.tensor_chunks` has no effect on virtual devices, whose blocks sleep"
            )
        return self

    def wishes(self) -> Wishes:
        """What the user fixed: the placement's bundle, with keys of `parallel` over it."""
        bundle = BUNDLES[self.placement] if self.placement else {}
        fixed = {
            key: value for key, value in self.parallel.model_dump().items() if value is not None
        }
        settings: dict[str, Any] = {**bundle, **fixed}
        return Wishes(**_by_stage(settings))


def _by_stage(settings: dict[str, Any]) -> dict[str, Any]:
    """Degrees that are given for each stage as one wish; equal ones stay plain degrees."""
    tensor, data = settings.get("tensor", 1), settings.get("data", 1)
    lists = [one for one in (tensor, data) if isinstance(one, tuple)]
    if not lists:
        return settings
    stages = len(lists[0])
    each = [one if isinstance(one, tuple) else (one,) * stages for one in (tensor, data)]
    plain = {**settings, "pipeline": stages}
    if all(len(set(one)) == 1 for one in each):
        return {**plain, "tensor": each[0][0], "data": each[1][0]}
    del plain["pipeline"]
    meshes = tuple(zip(*each, strict=True))
    return {**plain, "tensor": None, "data": None, "meshes": meshes}


def job_schema() -> dict[str, Any]:
    """JSON schema of the job file, for editors."""
    schema = Job.model_json_schema(by_alias=True)
    properties = schema["properties"]
    properties["model"] = {"anyOf": [{"type": "string"}, properties["model"]]}
    properties["parallel"] = {"anyOf": [{"const": "auto"}, properties["parallel"]]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Holmes job"
    return schema
