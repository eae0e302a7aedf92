"""The benchmarks of a source checkout: what there is, what their records say, and running one."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import holmes
from holmes.errors import ConfigError, HolmesError, UnavailableError, suggestion

WRITES = re.compile(r"\brecord\.(main|write)")
FOLDER = Path(holmes.__file__).parents[2] / "benchmarks"


@dataclass(frozen=True)
class Benchmark:
    """A program that measures something and writes a record.

    Attributes:
        about: the first line of its text.
        headline: what its record says, or when it was written where it has no single figure;
            None where there is no record.
    """

    name: str
    file: Path
    about: str
    headline: str | None


def benchmarks(folder: Path = FOLDER) -> list[Benchmark]:
    """All benchmarks, by name.

    Raises:
        UnavailableError: this installation has none.
    """
    if not folder.is_dir():
        raise UnavailableError(
            "there are no benchmarks here",
            where=str(folder),
            why="they belong to the source checkout, not to the installed package",
            next_step="run it in the checkout",
        )
    found = []
    for file in sorted(folder.glob("*.py")):
        text = file.read_text()
        if 'if __name__ == "__main__"' in text and WRITES.search(text):
            about = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
            headline = _headline(folder / "records" / f"{file.stem}.json")
            found.append(Benchmark(file.stem, file, about, headline))
    return found


def run_benchmark(name: str, arguments: Sequence[str], folder: Path = FOLDER) -> dict[str, Any]:
    """Run one to its end; its record.

    Raises:
        ConfigError: there is none of this name.
        HolmesError: it failed.
    """
    listed = {one.name: one for one in benchmarks(folder)}
    if name not in listed:
        near = suggestion(name, listed)
        raise ConfigError(
            f"there is no benchmark {name!r}",
            next_step=f"did you mean {near}?" if near else f"choose from {', '.join(listed)}",
        )
    root = folder.parent
    paths = [str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    command = [sys.executable, str(listed[name].file), *arguments]
    ended = subprocess.run(command, cwd=root, env=environment, stdout=sys.stderr)
    if ended.returncode:
        raise HolmesError(
            f"the benchmark {name} ended with exit code {ended.returncode}",
            where=str(listed[name].file),
            next_step=f"`holmes bench {name} -- --help` shows what it takes",
        )
    path = folder / "records" / f"{name}.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return record


def _headline(path: Path) -> str | None:
    try:
        record = json.loads(path.read_text())
        found = record.get("headline")
        if found is None:
            return f"several figures, of {record['date']}"
        return f"{found['figure']}: {found['median']:.4g}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
