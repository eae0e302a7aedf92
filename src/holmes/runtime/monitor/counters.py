"""Bytes this node has sent, per NIC kind, as the kernel counts them."""

from __future__ import annotations

from pathlib import Path

from holmes.hardware.site import Fabric
from holmes.hardware.topology import Node
from holmes.lab.counters import OWN, read_counters


def sent_by_fabric(node: Node, path: Path = OWN) -> dict[Fabric, int]:
    """Bytes sent since the interfaces were made, headers included, by NIC kind of the node.

    A kind none of whose interfaces exists here is left out, so on loopback (links not
    shaped) the answer is empty. Where several ranks share a node, each reads the same.

    Raises:
        UnavailableError: the counters cannot be read.
    """
    counters = read_counters(path)
    sent: dict[Fabric, int] = {}
    for nic in node.group.nics:
        present = [name for name in node.interfaces(nic.kind) if name in counters]
        if present:
            sent[nic.kind] = sum(counters[name].tx_bytes for name in present)
    return sent
