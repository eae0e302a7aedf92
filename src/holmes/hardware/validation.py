"""One clear ConfigError from a pydantic ValidationError: where, why, and what was meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from holmes.errors import ConfigError, suggestion
from holmes.hardware.yaml_reader import KeyPath, dotted

Model = TypeVar("Model", bound=BaseModel)
_PLAIN = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "keys and values"),
    "string_type": "text",
    "finite_number": "a finite number",
}
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
TEXT_PATTERN = r"^[^\x00]*$"
_PATTERNS = {
    NAME_PATTERN: "letters (a-z), digits, dots, _ and -, the first a letter or digit",
    TEXT_PATTERN: "text without a zero byte",
}
_QUOTED = re.compile(r"'([^']*)'")


def validated(
    model: type[Model], data: Any, *, what: str, where: Callable[[KeyPath], str]
) -> Model:
    """``data`` as ``model``.

    Args:
        what: the kind of document, for the message: "site", "job".
        where: gives the place (file and line, or override) of a key path.

    Raises:
        ConfigError: naming the most telling problem and how many more there are.
    """
    if not isinstance(data, Mapping):
        found = "nothing" if data is None else f"a {_kind_name(data)}"
        raise ConfigError(f"bad {what}: keys and values are needed, found {found}", where=where(()))
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _config_error(error, model, data, what, where) from None
    except RecursionError:
        raise ConfigError(f"bad {what}: nested too deeply", where=where(())) from None


def known_keys(model: type[BaseModel], key: KeyPath = ()) -> tuple[str, ...]:
    """The keys that may stand at a place of a document of this model, in order."""
    here: list[type[BaseModel]] = [model]
    for part in key:
        if isinstance(part, int):
            continue
        below: list[type[BaseModel]] = []
        for candidate in here:
            for name, info in candidate.model_fields.items():
                if part in (name, info.alias):
                    below += _models_in(info.annotation)
        here = below
    return tuple(
        dict.fromkeys(
            info.alias or name
            for candidate in here
            for name, info in candidate.model_fields.items()
        )
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _config_error(
    error: ValidationError,
    model: type[BaseModel],
    data: Any,
    what: str,
    where: Callable[[KeyPath], str],
) -> ConfigError:
    problems = [(_place(detail["loc"], data), detail) for detail in error.errors(include_url=False)]
    problems.sort(key=_telling)
    place, detail = problems[0]
    why, hint = _explain(detail, place, model)
    others = len({other for other, _ in problems} - {place})
    if others:
        why += f" (and {others} more {'problem' if others == 1 else 'problems'})"
    name = f"`{dotted(place, data)}`" if place else f"the {what}"
    return ConfigError(f"bad {what}: {name} is wrong", where=where(place), why=why, next_step=hint)


def _telling(problem: tuple[KeyPath, ErrorDetails]) -> tuple[bool, bool, int]:
    """Unknown keys first (the usual cause of the rest), wrong branches of a union last."""
    place, detail = problem
    kind = detail["type"]
    return kind != "extra_forbidden", kind.endswith("_type"), -len(place)


def _place(location: tuple[str | int, ...], data: Any) -> KeyPath:
    """The key path in the document; tags that mark the branch of a union drop out."""
    place: list[str | int] = []
    here = data
    for position, part in enumerate(location):
        if _holds(here, part):
            here = here[part]
        elif isinstance(here, Mapping) and position == len(location) - 1:
            here = None
        else:
            continue
        place.append(part)
    if place and place[-1] == "[key]":
        place.pop()
    return tuple(place)


def _holds(here: Any, part: str | int) -> bool:
    if isinstance(here, list):
        return isinstance(part, int) and part < len(here)
    return isinstance(here, Mapping) and part in here


def _explain(
    detail: ErrorDetails, place: KeyPath, model: type[BaseModel]
) -> tuple[str, str | None]:
    kind, given = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = known_keys(model, place[:-1])
        return f"there is no such key here; known: {', '.join(known)}", did_you_mean(
            str(place[-1]), known
        )
    if kind == "missing":
        return "this key is needed and is not there", f"add `{dotted(place)}`"
    if kind == "value_error":
        return str(context.get("error", detail["msg"])), None
    if kind in _PLAIN:
        return f"it should be {_PLAIN[kind]}, not {_shown(given)}", None
    if kind == "string_pattern_mismatch":
        rule = _PATTERNS.get(context["pattern"], f"text like {context['pattern']}")
        return f"it should be {rule}, not {_shown(given)}", None
    message = detail["msg"].replace("Input should be", "it should be", 1)
    if kind in ("literal_error", "enum"):
        choices = _QUOTED.findall(str(context.get("expected", "")))
        return f"{message}, not {_shown(given)}", did_you_mean(str(given), choices)
    return f"{message}, not {_shown(given)}", None


def did_you_mean(word: str, known: tuple[str, ...] | list[str]) -> str | None:
    """The hint of an error about a misspelt word, or None when nothing is near."""
    near = suggestion(word[:80], known)
    return f"did you mean `{near}`?" if near else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind_name(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "list"
    return "text" if isinstance(value, str) else type(value).__name__
