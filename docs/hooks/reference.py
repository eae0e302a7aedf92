"""Reference pages, made from the models, the commands and the functions when the site is built.

mkdocs calls :func:`on_files`. Nothing generated is kept in the repository, so nothing goes stale.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference pages to the site."""
    for name, page in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    return files


def site_page() -> str:
    from holmes.hardware.site import Site

    return _models("Site file", Site, "What a site file may hold. `holmes schema site` prints it.")


def job_page() -> str:
    from holmes.job.job import Job

    return _models("Job file", Job, "What a job file may hold. `holmes schema job` prints it.")


def plan_page() -> str:
    from holmes.plan.plan import Plan

    intro = "What `holmes plan -o plan.json` writes: these values, with `schema_version` beside."
    return _models("Plan file", Plan, intro)


def run_page() -> str:
    from holmes.events.metrics import StepMetrics
    from holmes.events.span import Span
    from holmes.watch.snapshot import RankStanding, Snapshot

    parts = [
        "# Run folder\n",
        "`runs/NAME/` holds `job.yaml`, `plan.json`, `summary.json`, `report.html`, "
        "`checkpoints/step-N/`, `logs/rank-N.log`, and the files below, one JSON object a line.\n",
        *_section(StepMetrics, "metrics.jsonl"),
        *_section(Span, "trace.jsonl and predicted.jsonl"),
        "## memory/rank-N.jsonl\n\n`step`, and `bytes` held after it.\n",
        *_section(Snapshot, "What holmes watch --json prints"),
        *_section(RankStanding, "RankStanding"),
    ]
    return "\n".join(parts)


def cli_page() -> str:
    """Every command with its options."""
    import typer

    from holmes.cli.main import app

    root: Any = typer.main.get_command(app)
    parts = ["# Commands\n", _help_of(root)]
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            for below, each in command.commands.items():
                parts.append(_command(f"{name} {below}", each))
        else:
            parts.append(_command(name, command))
    parts.append(EXIT_CODES)
    return "\n".join(parts)


def python_page() -> str:
    """The functions of `import holmes`, and those of holmes.api."""
    from holmes import api
    from holmes.api import calls

    parts = ["# Python\n", "```python\nimport holmes\n```\n"]
    for each in (calls.plan, calls.simulate, calls.rehearse, calls.train):
        parts.append(_function(f"holmes.{each.__name__}", each))
    for result in (calls.Planned, calls.Simulated, calls.Ran):
        parts.append(f"## {result.__name__}\n\n{_prose(inspect.getdoc(result) or '')}\n")
        for name, member in vars(result).items():
            if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                text = inspect.getdoc(member) or ""
                call = "" if isinstance(member, property) else "()"
                parts.append(f"- `.{name}{call}`: {text.splitlines()[0]}")
        parts.append("")
    parts.append("# holmes.api\n\nThe command line's twin: one function a command.\n")
    parts += [_function(f"api.{name}", getattr(api, name)) for name in api.__all__]
    return "\n".join(parts)


def _models(title: str, root: type, intro: str) -> str:
    """A page of a model and all the models that its fields hold, each once."""
    seen: dict[type, None] = {}
    _collect(root, seen)
    parts = [f"# {title}\n", intro + "\n"]
    for each in seen:
        parts += _section(each, each.__name__)
    return "\n".join(parts)


def _collect(model: type, seen: dict[type, None]) -> None:
    if model in seen:
        return
    seen[model] = None
    for _, kind, _ in _fields(model):
        for below in _inner(kind):
            _collect(below, seen)


def _inner(kind: Any) -> Iterator[type]:
    if isinstance(kind, type) and not typing.get_args(kind):
        if issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind):
            yield kind
        return
    for part in typing.get_args(kind):
        yield from _inner(part)


def _fields(model: type) -> list[tuple[str, Any, Any]]:
    """(name as written in the file, type, default or PydanticUndefined)."""
    if issubclass(model, BaseModel):
        return [
            (field.alias or name, field.annotation, field.get_default(call_default_factory=True))
            for name, field in model.model_fields.items()
        ]
    hints = typing.get_type_hints(model)
    found = []
    for field in dataclasses.fields(model):
        default: Any = PydanticUndefined
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append((field.name.rstrip("_"), hints[field.name], default))
    return found


def _section(model: type, title: str) -> list[str]:
    docs = _attribute_docs(model)
    last = (" what |", "---|") if docs else ("", "")
    rows = [f"| key | type | default |{last[0]}", f"|---|---|---|{last[1]}"]
    for name, kind, default in _fields(model):
        needed = default is PydanticUndefined
        said = f" {_cell(docs.get(name, docs.get(name + '_', '')))} |" if docs else ""
        shown = "needed" if needed else f"`{_short(default)}`"
        rows.append(f"| `{name}` | {_cell(_type(kind))} | {_cell(shown)} |{said}")
    return [f"## {title}\n", _prose(inspect.getdoc(model) or "") + "\n", *rows, ""]


def _attribute_docs(model: type) -> dict[str, str]:
    """The string that stands under a field, by field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    before = ""
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            before = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and before:
            found[before] = " ".join(str(node.value.value).split())
    return found


def _type(kind: Any) -> str:
    """A type as people write it."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return "none"
    if origin is typing.Annotated:
        return _type(args[0])
    if origin is typing.Literal:
        return " or ".join(f"`{each}`" for each in args)
    if origin in (typing.Union, UnionType):
        return " or ".join(_type(each) for each in args)
    if origin in (list, tuple):
        return f"list of {_type(args[0])}" if args else "list"
    if origin is not None and args:
        return f"map of {_type(args[0])} to {_type(args[-1])}"
    if isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    name = getattr(kind, "__name__", str(kind))
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        name, name
    )


def _short(default: Any) -> str:
    if isinstance(default, BaseModel) or dataclasses.is_dataclass(default):
        return "its defaults"
    text = str(getattr(default, "value", default))
    return text if len(text) <= 40 else text[:37] + "..."


def _cell(text: str) -> str:
    """In one cell of a table."""
    return _prose(text).replace("|", "\\|").replace("\n", " ")


def _prose(text: str) -> str:
    """Docstring to Markdown: double backquotes become single, roles go."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`").replace("<", "&lt;")


def _help_of(command: Any) -> str:
    sentence, _, rest = (command.help or "").replace("\b\n", "").partition("\n\n")
    examples = rest.replace("Examples:\n", "").replace("\b", "")
    block = f"\n```\n{textwrap.dedent(examples).strip()}\n```\n" if examples.strip() else ""
    return f"{_prose(sentence)}\n{block}"


def _command(name: str, command: Any) -> str:
    rows = ["| option | what |", "|---|---|"]
    for each in command.params:
        if each.name == "help":
            continue
        is_option = each.param_type_name == "option"
        label = ", ".join(each.opts) if is_option else (each.metavar or each.name.upper())
        said = (getattr(each, "help", None) or "").strip()
        rows.append(f"| {_cell(f'`{label}`')} | {_cell(said)} |")
    return "\n".join([f"## holmes {name}\n", _help_of(command), *rows, ""])


def _function(name: str, function: Callable[..., Any]) -> str:
    signature = str(inspect.signature(function)).replace("holmes.", "")
    text = inspect.getdoc(function) or ""
    return f"## {name}\n\n```text\n{name}{signature}\n\n{text}\n```\n"


EXIT_CODES = """\
## Exit codes

| code | means |
|---|---|
| 0 | done |
| 2 | the command line is wrong |
| 65 | bad or missing input data, table or checkpoint |
| 69 | unavailable: a busy port, an absent card, no permission |
| 70 | a bug |
| 74 | a file could not be written |
| 75 | a rank died, or the run can be resumed |
| 78 | bad site, job, override key or value |
| 130, 143 | interrupted, terminated |
"""

PAGES = {
    "site": site_page,
    "job": job_page,
    "plan": plan_page,
    "run": run_page,
    "commands": cli_page,
    "python": python_page,
}
