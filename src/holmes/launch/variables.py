"""What a launcher writes for a node before its processes start.

NCCL reads most of its variables once per process, so node-level choices (adapters,
GID, interface names) are variables; the transport is an option of each group, which the
runtime takes from the Plan when it opens it.
"""

from __future__ import annotations

from holmes.errors import ConfigError, suggestion
from holmes.hardware.site import Fabric
from holmes.hardware.topology import Node, Topology
from holmes.plan.plan import Plan

OWN_DEADLINES = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}
"""Every wait of the runtime has a deadline that names the ranks; torch's watchdog for NCCL
would end the process before that is said."""
ROCE_GID_INDEX = "3"
"""RoCE v2 over IPv4 on most adapters. Assumed, not read: `show_gids` on the node tells."""


def node_named(plan: Plan, node_name: str) -> Node:
    """The node of this name.

    Raises:
        ConfigError: the site has none.
    """
    nodes = {node.name: node for node in Topology(plan.site).nodes}
    if node_name not in nodes:
        near = suggestion(node_name, nodes)
        raise ConfigError(
            f"the site has no node {node_name!r}",
            next_step=f"did you mean {near}?" if near else f"nodes: {', '.join(nodes)}",
        )
    return nodes[node_name]


def node_variables(plan: Plan, node_name: str) -> dict[str, str]:
    """The variables of every process on a node, in a fixed order.

    Interface names are the site's. NCCL knows RDMA adapters by their verbs names
    (mlx5_0): the start script translates interface names on the node itself.

    Raises:
        ConfigError: the site has no such node.
    """
    node = node_named(plan, node_name)
    variables = {"HOLMES_NODE": node.name, "OMP_NUM_THREADS": "1", **OWN_DEADLINES}
    adapters = (*node.interfaces(Fabric.INFINIBAND), *node.interfaces(Fabric.ROCE))
    if adapters:
        variables["NCCL_IB_HCA"] = "=" + ",".join(adapters)  # = asks for exact names
    if node.nic(Fabric.ROCE) is not None:
        variables["NCCL_IB_GID_INDEX"] = ROCE_GID_INDEX
    sockets = node.interfaces(Fabric.ETHERNET)
    if sockets:
        variables["NCCL_SOCKET_IFNAME"] = "=" + ",".join(sockets)
        variables["GLOO_SOCKET_IFNAME"] = sockets[0]
    return variables


def assumptions(plan: Plan, node_name: str) -> tuple[str, ...]:
    """What :func:`node_variables` took for granted, as sentences."""
    node = node_named(plan, node_name)
    said: list[str] = []
    if node.nic(Fabric.ROCE) is not None:
        said.append(
            f"NCCL_IB_GID_INDEX={ROCE_GID_INDEX} is assumed (RoCE v2 over IPv4 on most adapters); "
            "check with show_gids"
        )
    unnamed = [nic.kind.value for nic in node.group.nics if not nic.interfaces]
    if unnamed:
        said.append(
            f"the site names no interfaces for {', '.join(unnamed)}; "
            "ib0, roce0, eth0 and so on are assumed"
        )
    return tuple(said)
