from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holmes.launch.context import RankContext
from holmes.launch.starter import run_here
from tests.launch.test_environment import SLURM, TORCHRUN


def echo(context: RankContext, word: str) -> dict[str, Any]:
    context.report({"step": 1})
    return {"rank": context.rank, "local": context.local_rank, "word": word}


def test_the_same_function_runs_in_this_process() -> None:
    heard: list[Any] = []
    answer = run_here(
        f"{__name__}:echo",
        {"word": "x"},
        environ=TORCHRUN,
        on_progress=lambda rank, value: heard.append((rank, value)),
    )
    assert answer == {"rank": 5, "local": 1, "word": "x"}
    assert heard == [(5, {"step": 1})]
    assert run_here(f"{__name__}:echo", {"word": "y"}, environ=SLURM)["rank"] == 3


SCRIPT = """
import json, sys
from pathlib import Path
from holmes.launch.starter import run_here
answer = run_here("tests.launch.cases:meet", {})
import os
Path(sys.argv[1], os.environ["RANK"]).write_text(json.dumps(answer))
"""


@pytest.mark.parallel
def test_under_real_torchrun(tmp_path: Path) -> None:
    """torchrun's agent keeps the store; ranks must join it instead of opening a second one."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--standalone", str(script), str(tmp_path)]
    done = subprocess.run(
        command,
        timeout=100,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in ("0", "1"):
        assert json.loads((tmp_path / rank).read_text()) == {"total": [6.0] * 4}
