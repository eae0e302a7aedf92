"""Text that starts a plan: a torchrun command per node, or one Slurm batch script."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from holmes.errors import ConfigError
from holmes.hardware.topology import Node, Topology
from holmes.job.sections import Launch
from holmes.launch.variables import assumptions, node_named, node_variables
from holmes.plan.plan import Plan

SECRET = """export HOLMES_SECRET="$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')" """.rstrip()
"""Ranks show each other that they know it; it goes by the environment, never by a command line."""
ADAPTERS = """\
adapters() {  # interface names to the names NCCL knows, where this machine has them
  local list= name found
  for name in "$@"; do
    found=$(ls "/sys/class/net/$name/device/infiniband" 2>/dev/null | head -n 1)
    list="$list,${found:-$name}"
  done
  echo "=${list#,}"
}"""


def used_nodes(plan: Plan) -> list[tuple[Node, int]]:
    """The nodes that run ranks of the plan, in site order, with how many each runs.

    Raises:
        ConfigError: the ranks of a node are not its first devices, so that no
            launcher's local rank would find them.
    """
    slots = [slot for slot in Topology(plan.site).devices if slot.index in set(plan.rank_map)]
    found: dict[str, tuple[Node, int]] = {}
    for slot in slots:
        _, count = found.get(slot.node.name, (slot.node, 0))
        if slot.local_index != count:
            raise ConfigError(
                f"the plan uses device {slot.local_index} of node {slot.node.name}, not an "
                "earlier one",
                where="rank_map",
                why="launchers number the processes of a node from 0 without gaps",
            )
        found[slot.node.name] = (slot.node, count + 1)
    return list(found.values())


def torchrun_command(
    plan: Plan, node_name: str, command: Sequence[str], port: int = Launch().port
) -> str:
    """The script that starts this node's ranks of ``command`` under torchrun.

    ``$MASTER_ADDR`` must be set to the Ethernet address of the first node.

    Raises:
        ConfigError: the node is not in the site, or runs no rank of the plan.
    """
    nodes = used_nodes(plan)
    names = [node.name for node, _ in nodes]
    if node_name not in names:
        node_named(plan, node_name)
        raise ConfigError(f"node {node_name} runs no rank of this plan", where="rank_map")
    position = names.index(node_name)
    torchrun = [
        "exec torchrun",
        f"--nnodes={len(nodes)}",
        f"--node-rank={position}",
        f"--nproc-per-node={nodes[position][1]}",
        f'--master-addr="${{MASTER_ADDR:?the Ethernet address of {names[0]}}}"',
        f'--master-port="${{MASTER_PORT:-{port}}}"',
        "--no-python",
        shlex.join(command),
    ]
    exports = _exports(plan, node_name)
    lines = [f"# node {node_name}", *_comments(plan, node_name), *_helper(exports), *exports]
    return "\n".join([*lines, " \\\n  ".join(torchrun)]) + "\n"


def slurm_script(plan: Plan, command: Sequence[str], asked: Launch | None = None) -> str:
    """A batch script for ``sbatch``: one task per rank, each node with its own variables.

    The i-th host of the allocation is taken for the i-th node of the plan.
    """
    nodes = used_nodes(plan)
    counts = [count for _, count in nodes]
    name = shlex.quote(plan.name.replace("\n", " "))
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --nodes={len(nodes)}",
        f"#SBATCH --ntasks={sum(counts)}",
        *(f"#SBATCH --{key}={value}" for key, value in slurm_wishes(asked).items()),
    ]
    uniform = len(set(counts)) == 1
    if uniform:
        lines.append(f"#SBATCH --ntasks-per-node={counts[0]}")
    lines += [
        "set -euo pipefail",
        "# Host i of the allocation stands for node i of the plan; check the order with",
        '#   scontrol show hostnames "$SLURM_JOB_NODELIST"',
    ]
    spread = "--kill-on-bad-exit=1"
    if not uniform:
        lines += _host_file(counts)
        spread += " --distribution=arbitrary"
    lines.append(SECRET)
    lines += [f"srun {spread} bash -c {shlex.quote(node_script(plan, nodes, command))}"]
    return "\n".join(lines) + "\n"


def slurm_wishes(asked: Launch | None) -> dict[str, str | int]:
    """What a job asks of Slurm beyond nodes and tasks, by Slurm's names; minutes for ``time``."""
    if asked is None:
        return {}
    found = {"account": asked.account, "partition": asked.partition, "time": asked.minutes}
    return {key: value for key, value in found.items() if value is not None}


def node_script(plan: Plan, nodes: Sequence[tuple[Node, int]], command: Sequence[str]) -> str:
    """What each task runs: variables of its node, then the command."""
    lines = ['case "$SLURM_NODEID" in']
    for position, (node, _) in enumerate(nodes):
        lines.append(f"{position})")
        lines += [f"  {line}" for line in _comments(plan, node.name)]
        lines += [f"  {line}" for line in _exports(plan, node.name)]
        lines.append("  ;;")
    return "\n".join([*_helper(lines), *lines, "esac", "exec " + shlex.join(command)])


def _host_file(counts: Sequence[int]) -> list[str]:
    """Lines that give each host its own number of tasks."""
    return [
        f"counts=({' '.join(map(str, counts))})",
        'hosts=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))',
        'export SLURM_HOSTFILE="$(mktemp)"',
        'for i in "${!counts[@]}"; do',
        '  for ((task = 0; task < counts[i]; task++)); do echo "${hosts[i]}"; done',
        'done > "$SLURM_HOSTFILE"',
    ]


def _helper(lines: Sequence[str]) -> list[str]:
    """The shell function that the lines call, where they do."""
    return [ADAPTERS] if any("$(adapters " in line for line in lines) else []


def _comments(plan: Plan, node_name: str) -> list[str]:
    return [f"# assumed: {text}" for text in assumptions(plan, node_name)]


def _exports(plan: Plan, node_name: str) -> list[str]:
    """Export lines; what the user has set for GID and threads is kept."""
    lines: list[str] = []
    for name, value in node_variables(plan, node_name).items():
        if name == "NCCL_IB_HCA":
            names = shlex.join(value.removeprefix("=").split(","))
            lines.append(f'export {name}="$(adapters {names})"')
        elif name in ("NCCL_IB_GID_INDEX", "OMP_NUM_THREADS"):
            lines.append(f'export {name}="${{{name}:-{value}}}"')
        else:
            lines.append(f"export {name}={shlex.quote(value)}")
    return lines
