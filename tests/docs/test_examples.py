"""Every example: sites are read, jobs are planned, and the notebook runs cell by cell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holmes.api.calls import plan
from holmes.hardware.read import read_site

EXAMPLES = Path(__file__).parents[2] / "examples"
SITES = sorted(EXAMPLES.glob("sites/*.yaml"))
JOBS = sorted(EXAMPLES.glob("jobs/*.yaml"))
CLUSTER_RANKS = 8


def test_there_is_one_of_each_kind() -> None:
    kinds = {"laptop", "one-gpu", "ib-and-roce", "three-clusters", "mixed-gpus", "unequal-nodes"}
    assert {path.stem for path in JOBS} == kinds <= {path.stem for path in SITES}


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_site(path: Path) -> None:
    assert read_site(str(path)).name == path.stem


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_job_is_planned(path: Path) -> None:
    made = plan(None, path)
    assert made.job.job.name == made.job.site.name == path.stem
    assert made.step_seconds > 0 and made.why
    blocks = [stage.blocks[1] - stage.blocks[0] for stage in made.plan.stages]
    if path.stem == "mixed-gpus":
        assert blocks[0] > blocks[1], "the faster GPUs hold more blocks"
    if path.stem == "ib-and-roce":
        fabrics = {group.transport.fabric for group in made.plan.groups if group.axis == "data"}
        assert {"infiniband", "roce"} <= fabrics


def test_notebook(tmp_path: Path) -> None:
    """Without Jupyter: the code cells, in order, in one process."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in code), "stored outputs would go stale"
    program = tmp_path / "cells.py"
    body = "\n\n".join("".join(cell["source"]) for cell in code)
    program.write_text(f"{body}\n")
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "finished 8" in done.stdout
