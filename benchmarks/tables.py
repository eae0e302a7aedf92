"""Put the tables of the records into README and docs: nobody types a number."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import record
import render

ROOT = Path(__file__).parent.parent
FILES: dict[Path, Callable[[Mapping[str, Any]], str]] = {
    ROOT / "README.md": render.compact,
    ROOT / "docs" / "benchmarks.md": render.full,
}
MARKED = re.compile(r"<!-- table:(\w+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str, show: Callable[[Mapping[str, Any]], str]) -> str:
    """A text with every marked table made anew from its record."""

    def block(match: re.Match[str]) -> str:
        name = match[1]
        data = record.read(name)
        shown = "Not measured yet." if data is None else show(data)
        return f"<!-- table:{name} -->\n{shown}\n<!-- end -->"

    return MARKED.sub(block, text)


def main() -> None:
    """Rewrite every marked table."""
    for path, show in FILES.items():
        path.write_text(filled(path.read_text(), show))
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
