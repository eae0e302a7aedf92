"""The site file of what was found, with the spread of every figure as a comment beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from holmes.hardware.site import Fabric
from holmes.probe.clusters import Found, FoundCluster, Reach, both_ways, unused
from holmes.probe.facts import NicFacts, NodeFacts

NO_CARD = "          - {kind: ethernet, gbit_s: 1, interfaces: [lo]}  # none found"
UNKNOWN_GBIT_S = 1.0
"""Rate of a card whose driver reports none and that no transfer measured."""


def site_text(name: str, nodes: Sequence[NodeFacts], found: Found, reach: Reach) -> str:
    """A site file (YAML) that `holmes plan --site` reads."""
    lines = ["# Written by `holmes probe`. Figures marked measured are medians with quartiles."]
    lines += [f"# {remark}" for remark in found.remarks]
    lines += [f"name: {json.dumps(name)}", "clusters:"]
    for cluster in found.clusters:
        lines += [f"  - name: {cluster.name}", "    nodes:"]
        left_out = unused(nodes, cluster, reach)
        for index in cluster.nodes:
            lines += _node(nodes[index])
            lines.append("        nics:")
            for fabric in Fabric:
                cards = [nic for nic in nodes[index].nics if nic.kind is fabric]
                if cards and fabric not in left_out:
                    lines.append(_nic_line(fabric, cards, index, cluster, reach))
            if not nodes[index].nics:
                lines.append(NO_CARD)
    if found.links:
        lines.append("links:")
    for link in found.links:
        a, b = link.between
        lines.append(
            f"  - {{between: [{a}, {b}], kind: {link.fabric.value}, gbit_s: {link.gbit_s:.4g}}}"
            "  # measured, one stream, slowest pair"
        )
    return "\n".join(lines) + "\n"


def _node(node: NodeFacts) -> list[str]:
    """The lines of one node up to its cards."""
    lines = [f"      # {node.name}: {node.device_name}", "      - count: 1"]
    if node.host:
        lines.append(f"        hosts: [{json.dumps(node.host)}]")
    lines += [
        f"        memory_gb: {node.memory_gb:g}",
        f"        disks: [{{free_gb: {node.disk_gb:g}}}]"
        + (
            f"  # measured write {node.disk_write_gbytes_s.text('GB/s')}"
            if node.disk_write_gbytes_s
            else ""
        ),
        "        device:",
        f"          kind: {node.device_kind}",
        f"          count: {node.device_count}",
    ]
    if node.matmul_tflops:
        lines.append(
            f"          matmul_tflops: {node.matmul_tflops.median:.4g}"
            f"  # measured {node.matmul_tflops.text('TFLOP/s')}"
        )
    if node.copy_gbytes_s:
        lines.append(
            f"          memory_gbytes_s: {node.copy_gbytes_s.median:.4g}"
            f"  # measured copy {node.copy_gbytes_s.text('GB/s')}"
        )
    if node.device_memory_gb:
        lines.append(f"          memory_gb: {node.device_memory_gb:g}")
    return lines


def _nic_line(
    fabric: Fabric, cards: list[NicFacts], index: int, cluster: FoundCluster, reach: Reach
) -> str:
    measured = [
        rate
        for other in cluster.nodes
        if other != index
        if (rate := both_ways(reach, index, other, fabric)) is not None
    ]
    reported = [nic.gbit_s for nic in cards if nic.gbit_s is not None]
    if reported:
        rate, note = min(reported), "line rate as reported"
        if measured:
            note += f"; measured {min(measured):.3g} Gbit/s, one stream"
    elif measured:
        rate, note = min(measured), "measured, one stream"
    else:
        rate, note = UNKNOWN_GBIT_S, "rate unknown, assumed"
    names = ", ".join(nic.interface for nic in cards)
    return (
        f"          - {{kind: {fabric.value}, gbit_s: {rate:.4g}, count: {len(cards)}, "
        f"interfaces: [{names}]}}  # {note}; {cards[0].evidence}"
    )
