"""Who this process is: read from the variables of torchrun or Slurm, never guessed.

The launch rank orders processes as the launcher started them. What a process
*does* follows from its device: ``plan.rank_map`` says which logical rank runs there.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from holmes.errors import ConfigError, suggestion
from holmes.hardware.topology import Node, Topology
from holmes.launch.slurm import expand_hosts
from holmes.plan.plan import Plan

Environ = Mapping[str, str]
SLURM_PORTS = (20_000, 31_999)  # below the ports that kernels hand out


@dataclass(frozen=True)
class RankEnvironment:
    """What the launcher told this process.

    ``node_name`` is the site's name of this node (``HOLMES_NODE``) or None;
    ``host_name`` is what the machine calls itself. ``hosts_store`` says that the
    rendezvous store is to be opened in this process. ``attempt`` counts elastic restarts.
    ``one_host`` says that this machine runs all processes of the job.
    """

    launch_rank: int
    world_size: int
    local_rank: int
    node_name: str | None
    node_rank: int
    master_address: str
    master_port: int
    host_name: str = ""
    hosts_store: bool = False
    attempt: int = 0
    launcher: str = "torchrun"
    one_host: bool = False


def launcher_of(environ: Environ) -> str | None:
    """``torchrun`` or ``slurm``: who started this process; None for nobody.

    A shell inside a Slurm allocation is no rank: only ``srun`` gives a node list
    of the step. torchrun wins over the Slurm step that started it.
    """
    if "RANK" in environ or "LOCAL_RANK" in environ:
        return "torchrun"
    if "SLURM_PROCID" in environ and "SLURM_STEP_NODELIST" in environ:
        return "slurm"
    return None


def from_environ(environ: Environ, slurm_ports: tuple[int, int] = SLURM_PORTS) -> RankEnvironment:
    """Read the launcher's variables.

    Args:
        slurm_ports: first and last of the ports from which Slurm's job id chooses one.

    Raises:
        ConfigError: none of the launchers started this process, a variable is
            missing or no number, or two of them contradict each other.
    """
    launcher = launcher_of(environ)
    if launcher is None:
        raise ConfigError(
            "this process was not started as a rank",
            why="neither RANK (torchrun) nor SLURM_STEP_NODELIST (srun) is set",
            next_step="start it with torchrun or srun; `holmes launch` prints the command",
        )
    found = _from_slurm(environ, slurm_ports) if launcher == "slurm" else _from_torchrun(environ)
    _check(found)
    return found


def device_index(topology: Topology, environment: RankEnvironment) -> int:
    """The index, in site order, of the device that this process runs.

    The node is the one named by ``HOLMES_NODE``, else the one with this host
    name (``hosts`` in the site) or named like it, else the node at the launcher's
    node rank. One machine that runs all processes stands for all nodes: process i
    runs device i.

    Raises:
        ConfigError: the node is not in the site, or has fewer devices.
    """
    if stands_for_all(topology, environment):
        if environment.launch_rank < len(topology.devices):
            return environment.launch_rank
        raise ConfigError(
            f"process {environment.launch_rank} of this machine has no device",
            where=f"launch rank {environment.launch_rank}",
            why=f"the site has {len(topology.devices)} device(s)",
            next_step="start one process per device of the site",
        )
    node = _node(topology, environment)
    if environment.local_rank >= node.device.count:
        raise ConfigError(
            f"process {environment.local_rank} of node {node.name} has no device",
            where=f"launch rank {environment.launch_rank}, host {environment.host_name or '?'}",
            why=f"the site gives this node {node.device.count} device(s)",
            next_step="start one process per device of the plan",
        )
    first = next(slot.index for slot in topology.devices if slot.node.index == node.index)
    return first + environment.local_rank


def stands_for_all(topology: Topology, environment: RankEnvironment) -> bool:
    """Whether this one machine runs the ranks of several nodes, none of which it is."""
    several = len(topology.nodes) > 1
    return environment.one_host and several and not by_name(topology, environment)


def by_name(topology: Topology, environment: RankEnvironment) -> bool:
    """Whether this node is found by a name, its own or its host's, and not by its number."""
    if environment.node_name is not None:
        return True
    names = {name for node in topology.nodes for name in (node.name, node.host)}
    return bool(names & {environment.host_name, environment.host_name.partition(".")[0]})


def logical_rank(plan: Plan, environment: RankEnvironment) -> int:
    """The logical rank that the plan puts on this process's device.

    Raises:
        ConfigError: the plan has another number of ranks, or leaves this device idle.
    """
    if environment.world_size != plan.world_size:
        raise ConfigError(
            f"{environment.world_size} processes were started for a plan of {plan.world_size}",
            where=f"launch rank {environment.launch_rank}",
            next_step="start one process per rank of the plan; `holmes launch` prints how",
        )
    topology = Topology(plan.site)
    index = device_index(topology, environment)
    if index not in plan.rank_map:
        slot = topology.devices[index]
        raise ConfigError(
            f"the plan leaves device {slot.local_index} of node {slot.node.name} idle",
            where=f"launch rank {environment.launch_rank}",
            why=f"its rank map is {','.join(map(str, plan.rank_map))}",
            next_step="start processes only on the devices of the rank map",
        )
    return plan.rank_map.index(index)


def _node(topology: Topology, environment: RankEnvironment) -> Node:
    by_name = {node.name: node for node in topology.nodes}
    if environment.node_name is not None:
        if environment.node_name in by_name:
            return by_name[environment.node_name]
        near = suggestion(environment.node_name, by_name)
        raise ConfigError(
            f"the site has no node {environment.node_name!r}",
            where="HOLMES_NODE",
            next_step=f"did you mean {near}?" if near else f"nodes: {', '.join(by_name)}",
        )
    by_host = {node.host: node for node in topology.nodes if node.host is not None}
    for name in (environment.host_name, environment.host_name.partition(".")[0]):
        if name in by_host or name in by_name:
            return by_host.get(name) or by_name[name]
    if environment.node_rank >= len(topology.nodes):
        raise ConfigError(
            f"node {environment.node_rank} of the launch has no counterpart in the site",
            where=f"launch rank {environment.launch_rank}",
            why=f"the site has {len(topology.nodes)} node(s)",
            next_step="set HOLMES_NODE on each machine, or mend the site file",
        )
    return topology.nodes[environment.node_rank]


def _from_torchrun(environ: Environ) -> RankEnvironment:
    """torchrun's variables; its agent may keep the store."""
    rank = _number(environ, "RANK")
    local_rank = _number(environ, "LOCAL_RANK")
    world = _number(environ, "WORLD_SIZE")
    agent_store = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return RankEnvironment(
        launch_rank=rank,
        world_size=world,
        local_rank=local_rank,
        node_name=environ.get("HOLMES_NODE"),
        node_rank=_number(environ, "GROUP_RANK", 0 if rank == local_rank else None),
        master_address=_text(environ, "MASTER_ADDR"),
        master_port=_number(environ, "MASTER_PORT"),
        host_name=environ.get("SLURMD_NODENAME") or socket.gethostname(),
        hosts_store=rank == 0 and not agent_store,
        attempt=_number(environ, "TORCHELASTIC_RESTART_COUNT", 0),
        launcher="torchrun",
        one_host=_number(environ, "LOCAL_WORLD_SIZE", 0) == world,
    )


def _from_slurm(environ: Environ, ports: tuple[int, int]) -> RankEnvironment:
    """srun's variables; the master is the first host of the step, the port from the job id."""
    hosts = expand_hosts(_text(environ, "SLURM_STEP_NODELIST"))
    world = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    rank = _number(environ, "SLURM_PROCID")
    if "MASTER_PORT" in environ:
        port = _number(environ, "MASTER_PORT")
    else:
        first, last = ports
        port = first + _number(environ, "SLURM_JOB_ID") % (last - first + 1)
    return RankEnvironment(
        launch_rank=rank,
        world_size=_number(environ, world),
        local_rank=_number(environ, "SLURM_LOCALID"),
        node_name=environ.get("HOLMES_NODE"),
        node_rank=_number(environ, "SLURM_NODEID"),
        master_address=environ.get("MASTER_ADDR") or hosts[0],
        master_port=port,
        host_name=environ.get("SLURMD_NODENAME") or socket.gethostname(),
        hosts_store=rank == 0,
        attempt=_number(environ, "SLURM_RESTART_COUNT", 0),
        launcher="slurm",
        one_host=len(hosts) == 1,
    )


def _check(found: RankEnvironment) -> None:
    if found.world_size < 1 or found.launch_rank >= found.world_size:
        raise ConfigError(
            f"rank {found.launch_rank} does not fit a world of {found.world_size}",
            where=f"variables of {found.launcher}",
        )
    if found.local_rank > found.launch_rank:
        raise ConfigError(
            f"local rank {found.local_rank} is above rank {found.launch_rank}",
            where=f"variables of {found.launcher}",
            why="a process cannot have more siblings before it than there are processes",
        )
    if not 0 < found.master_port < 65_536:
        raise ConfigError(
            f"{found.master_port} is no port", where=f"master port of {found.launcher}"
        )


def _text(environ: Environ, name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise ConfigError(
            f"the variable {name} is missing",
            why="the launcher sets it for every process",
            next_step="start with torchrun or srun; `holmes launch` prints the command",
        )
    return value


def _number(environ: Environ, name: str, default: int | None = None) -> int:
    if default is not None and name not in environ:
        return default
    value = _text(environ, name)
    if not (value.isascii() and value.isdigit()):
        raise ConfigError(f"the variable {name} is {value!r}, not a number from 0 up")
    return int(value)
