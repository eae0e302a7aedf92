"""The inner program of a block: stretches of computing, and collectives between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from holmes.workload.products import AttentionCore, MatrixProduct

SegmentKind = Literal["product", "attention", "elementwise"]


@dataclass(frozen=True)
class Segment:
    """A stretch of computing inside a block.

    Attributes:
        flops: forward FLOPs per sample (multiply and add count as two).
        bytes_: bytes of activations read and written per sample in the forward.
        split: the axes that divide the work besides the context axis, which divides
            all of it. What the tensor axis does not divide, it does divide (by tokens)
            under sequence parallelism.
        products: its matrix products, in order.
        attention: the attention core, where this is one. The two ``products`` of an
            unfused core stand in ``products`` too; a fused core is one kernel.
        weight_bytes: bytes of weights, read once per micro-batch whatever its samples.
        backward_bytes: bytes of activations and their gradients that the backward reads
            and writes per sample; None: not described, about twice the forward's.
        selective: the part of the forward that selective recomputation repeats, 0 to 1.
        kernels: launches of the forward in a plain implementation.
    """

    name: str
    flops: float
    bytes_: float
    split: tuple[str, ...] = ("tensor",)
    products: tuple[MatrixProduct, ...] = ()
    attention: AttentionCore | None = None
    weight_bytes: float = 0.0
    backward_bytes: float | None = None
    selective: float = 0.0
    kernels: int = 1

    @property
    def kind(self) -> SegmentKind:
        """What bounds it: a matrix unit, an attention kernel, or memory alone."""
        if self.attention is not None:
            return "attention"
        return "product" if self.products or self.flops else "elementwise"

    def share(self, tp: int = 1, cp: int = 1, sequence_parallel: bool = False) -> float:
        """The part of the work that one rank does."""
        divided = "tensor" in self.split or sequence_parallel
        return 1.0 / (cp * (tp if divided else 1))


@dataclass(frozen=True)
class Collective:
    """A collective inside a block: ``bytes_`` per sample at full (unsharded) size.

    Attributes:
        direction: when it runs. One of the backward stands where its forward twin is.
        split: other axes that divide ``bytes_``.
        tokens: whether it joins an activation [tokens, features], which sequence
            parallelism holds split by tokens (not so for the loss's sums).
        bound: whether ``bytes_`` depends on the data and this is the most it can be.
        output: whether the backward of its segment needs nothing of what it brings, so that
            selective recomputation does not repeat it.
    """

    op: Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "ring"]
    axis: Literal["tensor", "context", "expert"]
    bytes_: float
    direction: Literal["forward", "backward"]
    split: tuple[str, ...] = ("context",)
    tokens: bool = True
    bound: bool = False
    output: bool = False

    def runs(self, recompute: Literal["none", "selective", "full"]) -> int:
        """How often it runs for a micro-batch, as part of an attention core."""
        if self.direction == "backward" or recompute == "none":
            return 1
        return 1 if self.output and recompute == "selective" else 2

    def bytes_on_rank(self, tp: int = 1, cp: int = 1) -> float:
        """``bytes_`` per sample after the split by the axes that are not its own."""
        degrees = {"tensor": tp, "context": cp}
        bytes_ = self.bytes_
        for axis in self.split:
            bytes_ /= degrees.get(axis, 1)
        return bytes_

    def sent_bytes(self, degree: int, tp: int = 1, cp: int = 1) -> float:
        """Bytes per sample that one rank of a group of ``degree`` sends.

        (n-1)/n of the size; an all-reduce twice that; a ring passes each part on n-1 times,
        which comes to the same.
        """
        rounds = 2 if self.op == "all_reduce" else 1
        return rounds * (degree - 1) / degree * self.bytes_on_rank(tp, cp)


def context_collectives(
    inner: Iterable[Segment | Collective], algorithm: str, tp: int, cp: int
) -> tuple[Collective, ...]:
    """The collectives of a block over ``cp`` context ranks, by one of ``tp`` tensor ranks.

    The program declares a ring of keys and values, forward, and of these and their
    gradients, backward. Ring self-attention passes keys and values apart; the
    exchange sends queries, keys and values to where their heads are, and the outputs back.
    Key heads that several ranks read are sent to each of them.

    Args:
        algorithm: rsa, ring or ulysses.
    """
    parts = list(inner)
    core = next((p.attention for p in parts if isinstance(p, Segment) and p.attention), None)
    ring = next((p for p in parts if isinstance(p, Collective) and p.op == "ring"), None)
    if core is None or ring is None or cp == 1:
        return ()
    head = ring.bytes_ / (2 * core.key_heads)
    queries, keys = core.heads / tp, max(1.0, core.key_heads / tp)
    if algorithm == "ulysses":
        sent, back = head * (queries + 2 * max(keys, cp)), head * queries
        sizes: dict[str, tuple[float, ...]] = {"forward": (sent, back), "backward": (sent, back)}
    else:
        pair = 2 * head * keys
        apart = algorithm == "rsa"
        sizes = {"forward": (pair / 2, pair / 2) if apart else (pair,), "backward": (pair, pair)}
    exchanged = algorithm == "ulysses"
    return tuple(
        replace(
            ring,
            op="all_to_all" if exchanged else "ring",
            bytes_=size,
            direction="forward" if direction == "forward" else "backward",
            split=("context",) if exchanged else (),
            output=exchanged and index == 1,
        )
        for direction, each in sizes.items()
        for index, size in enumerate(each)
    )


def expert_collectives(inner: Iterable[Segment | Collective]) -> tuple[Collective, ...]:
    """The exchanges of a block that bring tokens to their experts and back (Lepikhin et al.
    2020, GShard, section 3.2): two in the forward, two in the backward."""
    return tuple(p for p in inner if isinstance(p, Collective) and p.axis == "expert")


def with_sequence_parallelism(
    inner: Iterable[Segment | Collective],
) -> tuple[Segment | Collective, ...]:
    """The program with its tensor collectives as sequence parallelism has them.

    Korthikanti et al. 2022, section 4.2.2: where the plain program sums in the forward
    (behind a split by rows), a reduce-scatter stands, with an all-gather in the
    backward. Where it sums in the backward (before a split by columns), an all-gather
    stands, with a reduce-scatter in the backward, and a second all-gather there, since
    each rank keeps only its tokens of the input that the weight gradient needs.
    """
    changed: list[Segment | Collective] = []
    for part in inner:
        if not (isinstance(part, Collective) and part.axis == "tensor" and part.tokens):
            changed.append(part)
        elif part.direction == "forward":
            changed.append(replace(part, op="reduce_scatter"))
            changed.append(replace(part, op="all_gather", direction="backward"))
        else:
            changed.append(replace(part, op="all_gather", direction="forward"))
            changed.append(replace(part, op="reduce_scatter"))
            changed.append(replace(part, op="all_gather"))
    return tuple(changed)
