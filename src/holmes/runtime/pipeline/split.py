"""The backward of one block in two parts: gradient of its input, then of its weights.

Both run on the graph that the forward recorded, and neither repeats the other. The first
goes down the nodes that lead to the input and keeps the gradients that arrive where weights
enter; the second starts at those nodes and goes only to the weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge


@dataclass(frozen=True)
class WeightPart:
    """What is left to do at one node: its gradients, and the weights they lead to."""

    edges: tuple[GradientEdge, ...]
    gradients: tuple[Tensor | None, ...]
    weights: tuple[Tensor, ...]

    def run(self) -> None:
        """Add to the gradients of the weights."""
        torch.autograd.backward(self.edges, self.gradients, inputs=self.weights)


def input_gradient(
    output: Tensor, block_input: Tensor, gradient: Tensor | None
) -> tuple[Tensor | None, list[WeightPart]]:
    """The gradient of a block's input, and what its weights still need.

    Args:
        output: of the block; its graph is kept alive by the parts that are returned.
        block_input: the leaf it was computed from; token ids have no gradient.
        gradient: of the output; None for a loss.
    """
    if output.grad_fn is None:
        return None, []  # a frozen embedding
    if not block_input.requires_grad:
        weights = tuple(_weights_below(output.grad_fn))
        return None, [WeightPart((get_gradient_edge(output),), (gradient,), weights)]
    entries = _entries(output.grad_fn, get_gradient_edge(block_input).node)
    counts = Counter(id(weight) for weights in entries.values() for weight in weights)
    arrived: dict[Node, tuple[Tensor | None, ...]] = {}
    hooks = [node.register_prehook(partial(_keep, arrived, node)) for node in entries]
    (found,) = torch.autograd.grad(output, block_input, gradient, retain_graph=True)
    for hook in hooks:
        hook.remove()
    if max(counts.values(), default=0) > 1:
        # A weight used twice would be reached from both: one pass over everything instead.
        weights = tuple({id(w): w for group in entries.values() for w in group}.values())
        return found, [WeightPart((get_gradient_edge(output),), (gradient,), weights)]
    return found, [_part(node, arrived[node], weights) for node, weights in entries.items()]


def _keep(
    arrived: dict[Node, tuple[Tensor | None, ...]],
    node: Node,
    gradients: tuple[Tensor | None, ...],
) -> None:
    arrived[node] = gradients


def _part(
    node: Node, gradients: tuple[Tensor | None, ...], weights: tuple[Tensor, ...]
) -> WeightPart:
    given = [(GradientEdge(node, i), g) for i, g in enumerate(gradients) if g is not None]
    return WeightPart(tuple(edge for edge, _ in given), tuple(g for _, g in given), weights)


def _entries(root: Node, target: Node) -> dict[Node, tuple[Tensor, ...]]:
    """The nodes on the way to the input where weights enter, with those weights."""
    order = list(_depth_first(root))
    leads: dict[Node, bool] = {}
    for node in order:
        below = [child for child, _ in node.next_functions if child is not None]
        leads[node] = node is target or any(leads[child] for child in below)
    found: dict[Node, tuple[Tensor, ...]] = {}
    for node in order:
        if not leads[node]:
            continue
        aside = [c for c, _ in node.next_functions if c is not None and not leads[c]]
        weights = tuple(weight for child in aside for weight in _weights_below(child))
        if weights:
            found[node] = weights
    return found


def _weights_below(node: Node) -> Iterator[Tensor]:
    """The leaves that a node's gradient flows to."""
    for each in _depth_first(node):
        leaf = getattr(each, "variable", None)
        if leaf is not None:
            yield leaf


def _depth_first(root: Node) -> Iterator[Node]:
    """Every node below one and itself, children first, each once."""
    seen: set[Node] = {root}
    stack: list[tuple[Node, Iterator[Node]]] = [(root, _children(root))]
    while stack:
        node, children = stack[-1]
        for child in children:
            if child not in seen:
                seen.add(child)
                stack.append((child, _children(child)))
                break
        else:
            stack.pop()
            yield node


def _children(node: Node) -> Iterator[Node]:
    return (child for child, _ in node.next_functions if child is not None)
