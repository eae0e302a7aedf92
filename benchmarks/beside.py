"""Another estimator on the same held-out runs: llm-analysis, where an interpreter has it.

``--python PATH`` is an interpreter of an environment with ``pip install llm-analysis``; it is
never imported here. Rate: rows per CPU-second, time and memory both computed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record
from accuracy import SITES, SPLITS, TABLES
from holmes.accuracy.score import score_of
from holmes.accuracy.table import Row, read_table
from holmes.accuracy.validate import validate_rows
from holmes.cost.calibration import DEFAULT

TOOL = Path(__file__).parent / "beside_tool.py"
COMPARED = ("a100_one_node", "a100_many_nodes_18b")
EVERY = 4
"""Fitted rows that are given to the tool."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, help="interpreter that has llm-analysis")
    python = parser.parse_args().python
    if python is None:
        print("skipped: give --python of an environment with llm-analysis")
        return
    fits = {split.table: split.fitted for split in SPLITS}
    rows = {name: read_table(TABLES / f"{name}.csv") for name in COMPARED}
    fitted = [row for row in rows[COMPARED[0]] if row.case and fits[COMPARED[0]](row.case)]
    figures: dict[str, Any] = {}
    for name in COMPARED:
        scored = [row for row in rows[name] if row.case and not fits[name](row.case)]
        asked = {"fitted": _plain(fitted[::EVERY]), "scored": _plain(scored)}
        other = subprocess.run(
            [str(python), str(TOOL)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        ours = score_of(validate_rows(scored, SITES, DEFAULT, name=name).time)
        figures[name] = {"holmes": ours.to_dict(), "other": json.loads(other.stdout)}
        print(name, figures[name])
    record.write("beside", {"tables": figures})


def _plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON values, with what was measured."""
    names = ("layers", "heads", "hidden", "vocabulary", "sequence", "tp", "pp", "dp", "micro",
             "global_batch", "recompute")  # fmt: skip
    return [
        {name: getattr(row.case, name) for name in names} | {"seconds": row.measured.seconds}
        for row in rows
    ]


if __name__ == "__main__":
    main()
