"""Public classes and functions say what they promise, and which errors they raise."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from holmes import api

SOURCE = Path(__file__).parents[2] / "src" / "holmes"
ROOMS = sorted(path for path in SOURCE.iterdir() if path.is_dir() and path.name != "cli")
"""Commands of ``cli`` have a help text instead."""
Definition = ast.FunctionDef | ast.ClassDef
OURS = {
    node.name
    for path in SOURCE.rglob("*.py")
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
}


def definitions(room: Path) -> Iterator[tuple[str, Definition, str]]:
    """(place, definition, docstring) of what is public; a method may rest on its class's."""
    for path in sorted(room.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, Definition) or node.name.startswith("_"):
                continue
            said = ast.get_docstring(node) or ""
            place = f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}"
            yield place, node, said
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    own = ast.get_docstring(inner) or ""
                    yield f"{place}.{inner.name}", inner, own + said


def raised(node: Definition) -> set[str]:
    """The project's errors that a function raises itself."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call):
            found.add(ast.unparse(inner.exc.func).rpartition(".")[2])
    return found & OURS


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_what_is_public_says_what_it_promises(room: Path) -> None:
    silent, unsaid = [], []
    for place, node, said in definitions(room):
        if not said:
            silent.append(place)
        if isinstance(node, ast.FunctionDef):
            unsaid += [f"{place}: {name}" for name in sorted(raised(node)) if name not in said]
    assert not silent
    assert not unsaid


@pytest.mark.parametrize("name", api.__all__)
def test_a_function_of_the_api_says_all(name: str) -> None:
    function = getattr(api, name)
    text = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    assert text and all(p.annotation is not p.empty for p in signature.parameters.values())
    assert "Raises:" in text or name in QUIET


QUIET = frozenset({"schema", "show_config"})
"""Functions that raise nothing of their own."""
