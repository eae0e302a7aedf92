"""A command as one rank on every host of a lab, as a launcher would start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from holmes.hardware.site import Fabric
from holmes.lab.lab import Lab

DEADLINE = 100


def on_all_hosts(
    lab: Lab, command: Sequence[str], folder: Path | None = None
) -> tuple[list[int], Any]:
    """Exit codes, and the answer of the first rank, which alone gives one.

    Args:
        command: arguments of Python.
        folder: where it runs.
    """
    ranks: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        for rank, host in enumerate(lab.hosts):
            variables = {
                "RANK": str(rank),
                "WORLD_SIZE": str(len(lab.hosts)),
                "LOCAL_RANK": "0",
                "GROUP_RANK": str(rank),
                "MASTER_ADDR": lab.hosts[0].addresses[Fabric.ETHERNET],
                "MASTER_PORT": "29500",
                "OMP_NUM_THREADS": "1",
            }
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folder,
                env={**os.environ, **variables},
                preexec_fn=lambda node=host.node.index: lab.enter(node),
            )
            stack.callback(process.kill)
            ranks.append(process)
        answers = [process.communicate(timeout=DEADLINE) for process in ranks]
    assert answers[0][0], answers
    assert [out == "" for out, _ in answers] == [False, *[True] * (len(ranks) - 1)], answers
    return [process.returncode for process in ranks], json.loads(answers[0][0])
