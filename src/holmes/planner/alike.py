"""Operations that start at once and share no card: of equal ones, one is priced."""

from __future__ import annotations

from collections.abc import Sequence

from holmes.hardware.topology import Node


def representatives(operations: Sequence[Sequence[Node]]) -> list[int]:
    """Indices of operations that take as long together as all of them do.

    Operations that touch no common node, directly or through others, do not slow each
    other. A set of operations is left out when the same set is kept on other nodes of the
    same kinds. One that crosses clusters shares the link between them, and is always kept.

    Args:
        operations: the node of each member, in the order of the members.
    """
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for nodes in operations:
        first = root(nodes[0].index)
        for node in nodes[1:]:
            parent[root(node.index)] = first
    sets: dict[int, list[int]] = {}
    for index, nodes in enumerate(operations):
        sets.setdefault(root(nodes[0].index), []).append(index)
    kept: dict[tuple[object, ...], list[int]] = {}
    for indices in sets.values():
        kept.setdefault(_signature([operations[index] for index in indices]), indices)
    return sorted(index for indices in kept.values() for index in indices)


def _signature(operations: Sequence[Sequence[Node]]) -> tuple[object, ...]:
    """Equal for sets of operations that differ only in which nodes of equal kind they use."""
    names: dict[int, int] = {}
    found: list[object] = []
    clusters = set()
    for nodes in operations:
        for node in nodes:
            found += (names.setdefault(node.index, len(names)), id(node.group))
            clusters.add(node.cluster)
        found.append(None)
    mixed = len(clusters) > 1
    return (*found, *clusters) if not mixed else (*found, *names)
