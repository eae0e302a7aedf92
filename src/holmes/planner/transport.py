"""Where the NIC choice is made: the transport of one process group.

A group can only use a fabric that *all* its members share. The rule
``per-group`` gives each group the fastest such fabric; ``common`` gives all
groups the one fabric that every node of the job shares, as one communicator
library with one network setting must do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from holmes.errors import ConfigError
from holmes.hardware.topology import Node, Topology
from holmes.plan.layout import TransportRule
from holmes.plan.plan import Transport

INTRA_NODE = Transport(fabric=None)


def choose_transport(members: Sequence[Node], topology: Topology, rule: TransportRule) -> Transport:
    """The transport of a group whose members run on these nodes.

    Raises:
        ConfigError: when no fabric joins the nodes; names the clusters nobody joins.
    """
    nodes = distinct(members)
    if len(nodes) == 1:
        return INTRA_NODE
    must_join = nodes if rule == "per-group" else topology.nodes
    paths = topology.paths(must_join)
    if not paths:
        raise _nobody_joins(must_join, topology)
    return Transport(fabric=paths[0].fabric)


def interfaces(members: Sequence[Node], transport: Transport) -> dict[str, tuple[str, ...]]:
    """The interface names that a group uses, per node; none inside a node."""
    if transport.fabric is None:
        return {node.name: () for node in distinct(members)}
    return {node.name: node.interfaces(transport.fabric) for node in distinct(members)}


def distinct(members: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes of a group, each once, in the order they first appear."""
    return tuple({node.index: node for node in members}.values())


def _nobody_joins(nodes: Sequence[Node], topology: Topology) -> ConfigError:
    for a, b in combinations(nodes, 2):
        if not topology.paths((a, b)):
            ends = f"cluster {a.cluster!r} and cluster {b.cluster!r}"
            if a.cluster == b.cluster:
                ends = f"{a.name} and {b.name}"
            return ConfigError(
                f"no network joins {ends}",
                where="site.links",
                why="a process group needs one NIC kind that all members have, "
                "and a link of that kind between each pair of their clusters",
                next_step=f"add a link between {ends} to the site, or plan for one cluster alone",
            )
    clusters = ", ".join(dict.fromkeys(node.cluster for node in nodes))
    return ConfigError(
        f"no single NIC kind joins all of {clusters}",
        where="site.clusters, site.links",
        why="each pair of nodes shares some network, but no one kind reaches all members",
        next_step="give every node an Ethernet NIC and link the clusters over Ethernet",
    )
