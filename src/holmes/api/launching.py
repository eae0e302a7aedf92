"""From a plan to what starts it: scripts, and jobs handed to Slurm."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from holmes.errors import ConfigError
from holmes.job.resolve import ResolvedJob
from holmes.plan.plan import Plan


def launch(plan_file: Path, job: Path, *, starter: Literal["torchrun", "slurm"]) -> dict[str, Any]:
    """The command lines and per-node environment that start a plan.

    Raises:
        ConfigError: there is no such job, the plan is of another one, or the runtime cannot
            run it.
    """
    from holmes.launch.scripts import slurm_script, torchrun_command, used_nodes

    made, resolved, command = _checked(plan_file, job)
    if starter == "slurm":
        return {"starter": starter, "text": slurm_script(made, command, resolved.job.launch)}
    port = resolved.job.launch.port
    nodes = {
        node.name: torchrun_command(made, node.name, command, port) for node, _ in used_nodes(made)
    }
    text = "\n".join(f"# on {name}\n{line}" for name, line in nodes.items())
    return {"starter": starter, "nodes": nodes, "text": text}


def submit(plan_file: Path, job: Path, *, submitit: bool = False) -> dict[str, Any]:
    """Hand a plan to Slurm, through ``sbatch`` or submitit; ``{starter, job_id, text}``.

    Raises:
        ConfigError: as for :func:`launch`.
        UnavailableError: no ``sbatch`` or submitit here, or Slurm refused.
    """
    from holmes.launch.scripts import slurm_script
    from holmes.launch.submit import submit_script, submit_with_submitit

    made, resolved, command = _checked(plan_file, job)
    if submitit:
        folder = Path(resolved.job.output).expanduser() / resolved.job.name / "submitit"
        number = submit_with_submitit(made, command, folder, resolved.job.launch)
    else:
        number = submit_script(slurm_script(made, command, resolved.job.launch))
    return {"starter": "slurm", "job_id": number, "text": f"submitted as Slurm job {number}"}


def _checked(plan_file: Path, job: Path) -> tuple[Plan, ResolvedJob, list[str]]:
    """The plan, its job, and the command of every rank."""
    from holmes.job.resolve import resolve_job
    from holmes.plan.codec import read_plan
    from holmes.runtime import capabilities
    from holmes.train.planning import check_fits, on_cpu, runnable

    made = read_plan(plan_file)
    if not job.is_file():
        raise ConfigError(
            "there is no job file",
            where=f"--job {job}",
            next_step="give the job that the plan was made from",
        )
    capabilities.check(made)
    resolved = resolve_job(job)
    check_fits(made, runnable(resolved, on_gpu=not on_cpu(resolved)), where=str(plan_file))
    return made, resolved, ["holmes", "train", str(job), "--plan", str(plan_file)]
