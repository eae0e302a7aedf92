"""Running as one rank that torchrun or Slurm started: the task runs in this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from holmes.launch.context import RankContext
from holmes.launch.environment import SLURM_PORTS, RankEnvironment, from_environ
from holmes.launch.pool import OnProgress
from holmes.launch.rank import resolve


def context_of(environment: RankEnvironment, on_progress: OnProgress | None = None) -> RankContext:
    """The context of a task in this process; reports of this rank go to ``on_progress``."""

    def send(value: Mapping[str, Any]) -> None:
        if on_progress is not None:
            on_progress(environment.launch_rank, value)

    return RankContext(
        rank=environment.launch_rank,
        world_size=environment.world_size,
        local_rank=environment.local_rank,
        node_name=environment.node_name,
        master_address=environment.master_address,
        master_port=environment.master_port,
        hosts_store=environment.hosts_store,
        attempt=environment.attempt,
        _send=send,
    )


def run_here(
    call: str,
    args: Mapping[str, Any],
    *,
    environ: Mapping[str, str] = os.environ,
    slurm_ports: tuple[int, int] = SLURM_PORTS,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Run the function that :meth:`Pool.run` would run, as the rank this process is.

    Raises:
        ConfigError: the launcher's variables are missing or contradict each other.
    """
    context = context_of(from_environ(environ, slurm_ports), on_progress)
    return dict(resolve(call)(context, **args))
