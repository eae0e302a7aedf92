"""What an analytic model of kernels needs: shapes of matrix products and of attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Dim = Literal["m", "n", "k", "count"]

_FIRST_OPERAND: Mapping[Dim, Dim] = {"m": "m", "n": "k", "k": "n", "count": "count"}
_SECOND_OPERAND: Mapping[Dim, Dim] = {"m": "k", "n": "n", "k": "m", "count": "count"}


@dataclass(frozen=True)
class MatrixProduct:
    """``count`` equal products [m, k] x [k, n] of one sample, before any split.

    Attributes:
        tensor: the dim that the tensor axis divides: ``n`` where weights split by
            columns, ``k`` by rows, ``count`` for heads; None when every rank does all.
        samples: the dim that grows with the samples of a micro-batch: ``m`` where the
            second operand is a weight, ``count`` where both are activations.
        context: the dim that the context axis divides.
        experts: whether ``count`` are the experts of a layer. The expert axis divides
            them, and brings the tokens of all its ranks to each: m times as many.
    """

    m: int
    n: int
    k: int
    count: int = 1
    tensor: Dim | None = None
    samples: Dim = "m"
    context: Dim = "m"
    experts: bool = False

    @property
    def flops(self) -> float:
        """Two per multiply-add."""
        return 2.0 * self.m * self.n * self.k * self.count

    def elements(self) -> int:
        """Elements of both operands and the result."""
        return self.count * (self.m * self.k + self.k * self.n + self.m * self.n)

    def backward(self) -> tuple[MatrixProduct, MatrixProduct]:
        """The two products of the backward: gradient of the first and the second operand.

        dA [m, k] = dC [m, n] x B^T; dB [k, n] = A^T x dC [m, n]. The dims that axes
        divide move along.
        """
        return self._relabelled(_FIRST_OPERAND), self._relabelled(_SECOND_OPERAND)

    def on_rank(self, micro: int = 1, tp: int = 1, cp: int = 1, ep: int = 1) -> MatrixProduct:
        """The shape that one rank computes for a micro-batch; parts are rounded up."""
        shape: dict[Dim, int] = {"m": self.m, "n": self.n, "k": self.k, "count": self.count}
        if self.tensor is not None:
            shape[self.tensor] = -(-shape[self.tensor] // tp)
        shape[self.context] = -(-shape[self.context] // cp)
        shape[self.samples] *= micro
        if self.experts:
            shape["count"] = -(-shape["count"] // ep)
            shape[self.samples] *= ep
        return MatrixProduct(
            shape["m"],
            shape["n"],
            shape["k"],
            shape["count"],
            self.tensor,
            self.samples,
            self.context,
            self.experts,
        )

    def _relabelled(self, names: Mapping[Dim, Dim]) -> MatrixProduct:
        sizes = {names["m"]: self.m, names["n"]: self.n, names["k"]: self.k}
        return MatrixProduct(
            sizes["m"],
            sizes["n"],
            sizes["k"],
            self.count,
            None if self.tensor is None else names[self.tensor],
            names[self.samples],
            names[self.context],
            self.experts,
        )


@dataclass(frozen=True)
class AttentionCore:
    """softmax(Q K^T) V of one sample, before any split.

    The tensor axis divides ``heads`` (and ``key_heads`` as far as they go), the
    context axis ``queries``. ``fused`` keeps no score in memory and repeats them in the
    backward (Dao et al. 2022); unfused writes and keeps them.
    """

    heads: int
    key_heads: int
    queries: int
    keys: int
    head_size: int
    causal: bool = True
    fused: bool = True

    @property
    def backward_over_forward(self) -> float:
        """Products of the backward per product of the forward: five to two when fused."""
        return 2.5 if self.fused else 2.0

    def products(self) -> tuple[MatrixProduct, MatrixProduct]:
        """The two products over the full square: scores, and their mix of the values."""
        scores = MatrixProduct(
            self.queries, self.keys, self.head_size, self.heads, tensor="count", samples="count"
        )
        return scores, replace(scores, n=self.head_size, k=self.keys)
