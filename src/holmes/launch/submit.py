"""Handing a plan to Slurm: through ``sbatch``, or through submitit where people use it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from holmes.errors import ConfigError, UnavailableError
from holmes.launch.scripts import node_script, used_nodes
from holmes.plan.plan import Plan

SUBMIT_SECONDS = 60.0


def submit_script(script: str) -> str:
    """Submit a batch script; the job's id.

    Raises:
        UnavailableError: there is no ``sbatch`` here, or it refused.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise UnavailableError(
            "there is no sbatch on this machine",
            where="PATH",
            next_step="show the script with --print, and submit it on a login node",
        )
    try:
        done = subprocess.run(
            [program, "--parsable"],
            input=script,
            capture_output=True,
            text=True,
            timeout=SUBMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"sbatch gave no answer in {SUBMIT_SECONDS:g} s") from None
    if done.returncode:
        raise UnavailableError(
            "Slurm refused the job",
            where="sbatch",
            why=done.stderr.strip()[:300] or f"exit code {done.returncode}",
            next_step="see the script with --print",
        )
    return done.stdout.strip().partition(";")[0]


def submit_with_submitit(plan: Plan, command: Sequence[str], folder: Path) -> str:
    """Submit through submitit, one task per rank; the job's id. Logs go to ``folder``.

    Raises:
        UnavailableError: submitit is not installed.
        ConfigError: the nodes run unequal numbers of ranks, which submitit cannot ask for.
    """
    try:
        import submitit
    except ImportError:
        raise UnavailableError(
            "submitit is not installed",
            next_step="pip install 'holmes[slurm]', or leave --submitit out to use sbatch",
        ) from None
    nodes = used_nodes(plan)
    counts = {count for _, count in nodes}
    if len(counts) != 1:
        raise ConfigError(
            "the plan's nodes run unequal numbers of ranks",
            why="submitit asks for the same number of tasks on every node",
            next_step="leave --submitit out: the batch script can do it",
        )
    executor = submitit.SlurmExecutor(folder=str(folder))
    executor.update_parameters(
        job_name=plan.name, nodes=len(nodes), ntasks_per_node=counts.pop(), stderr_to_stdout=True
    )
    run = submitit.helpers.CommandFunction(["bash", "-c", node_script(plan, nodes, command)])
    return str(executor.submit(run).job_id)
