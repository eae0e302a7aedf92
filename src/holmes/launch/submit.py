"""Handing a plan to Slurm: through ``sbatch``, or through submitit where people use it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from holmes.errors import ConfigError, UnavailableError
from holmes.job.sections import Launch
from holmes.launch.scripts import SECRET, node_script, slurm_wishes, used_nodes
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


def submit_with_submitit(plan: Plan, command: Sequence[str], folder: Path, asked: Launch) -> str:
    """Submit through submitit, one task per rank; the job's id. Logs go to ``folder``.

    Raises:
        UnavailableError: submitit is not installed, or Slurm is not here or refused.
        ConfigError: the nodes run unequal numbers of ranks, which submitit cannot ask for, or
            no time limit is set.
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
    if asked.minutes is None:
        raise ConfigError(
            "the job has no time limit",
            where="launch.minutes",
            why="submitit would set one of five minutes",
            next_step="set launch.minutes in the job, e.g. launch: {minutes: 600}",
        )
    run = submitit.helpers.CommandFunction(["bash", "-c", node_script(plan, nodes, command)])
    try:
        executor = submitit.SlurmExecutor(folder=str(folder))
        executor.update_parameters(
            job_name=plan.name,
            nodes=len(nodes),
            ntasks_per_node=counts.pop(),
            stderr_to_stdout=True,
            setup=[SECRET],
            **slurm_wishes(asked),
        )
        return str(executor.submit(run).job_id)
    except (RuntimeError, OSError) as error:  # no srun here; what sbatch said
        raise UnavailableError(
            "submitit cannot submit the job", why=str(error).strip()[:300] or None
        ) from None
