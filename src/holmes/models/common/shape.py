"""DecoderShape: what the description of any decoder is made from; widths by precision. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp64", "bf16", "fp16", "mixed"]
Attention = Literal["fused", "unfused"]


@dataclass(frozen=True)
class Widths:
    """Bytes per element.

    ``stream`` is the residual stream, ``compute`` what matrix products read, ``loss``
    what the loss is taken in; then the three states of a parameter.
    """

    stream: int
    compute: int
    loss: int
    parameter: int
    gradient: int
    optimizer: int


WIDTHS: dict[str, Widths] = {
    "fp32": Widths(4, 4, 4, 4, 4, 8),
    "fp64": Widths(8, 8, 8, 8, 8, 16),
    "bf16": Widths(4, 2, 4, 4, 4, 8),
    "fp16": Widths(4, 2, 4, 4, 4, 8),
    "mixed": Widths(2, 2, 4, 2, 4, 12),
}
"""``bf16`` and ``fp16`` are autocast: parameters, gradients and the residual stream stay fp32.
``mixed`` is half-precision training with bf16 parameters (2), fp32 gradients (4), fp32 master copy
and two moments (12)."""


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a pre-norm decoder and what is counted of it.

    Attributes:
        key_heads: heads of keys and values.
        inner: width of the MLP, or of one expert.
        gated: three matrices in the MLP (SwiGLU) instead of two.
        learned_positions: a table of positions, else rotary angles.
        experts, top_k: a mixture of experts of which each token takes ``top_k``; 0: an MLP.
        attention: whether the core keeps its score matrix (unfused) or not.
        precision: a key of ``WIDTHS``.
        dropout: one-byte masks behind embedding, attention, MLP and (unfused) scores.
        statistics: count what norms keep per token, as autograd does.
        joined: products of the same input are one (queries, keys and values; gate and up).
        head_features: of one head; None: hidden / heads.
        qkv_bias: biases on queries, keys and values alone.
        qk_norm: RMSNorm on the queries and keys of each head.
        masks_apart: an unfused core masks its scores in a kernel before the softmax, in place.
        compiled: a compiler keeps only what the backward reads.
        loss_compiled: a compiler fuses the loss: of the logits, those as wide as products and
            their gradient exist.
        stepwise: norms without a kernel of their own, rotation and gating run as one operation of
            the framework after the other, each through memory.
        core_again: selective recomputation repeats the attention core, be it fused, and no product
            (Megatron-LM), instead of every second product.
        head_again: full recomputation repeats the head, too (with ``statistics``).
    """

    layers: int
    hidden: int
    heads: int
    key_heads: int
    sequence: int
    vocabulary: int
    inner: int
    gated: bool
    learned_positions: bool
    tied: bool
    bias: bool
    layernorm: bool
    attention: Attention
    precision: Precision
    dropout: bool = False
    statistics: bool = True
    joined: bool = False
    masks_apart: bool = False
    compiled: bool = False
    loss_compiled: bool = False
    stepwise: bool = False
    core_again: bool = False
    head_again: bool = True
    experts: int = 0
    top_k: int = 0
    head_features: int | None = None
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def widths(self) -> Widths:
        """Bytes per element in this precision."""
        return WIDTHS[self.precision]

    @property
    def head_size(self) -> int:
        """Features of one head."""
        return self.head_features or self.hidden // self.heads

    @property
    def query_width(self) -> int:
        """Features of all queries of a token."""
        return self.heads * self.head_size

    @property
    def key_width(self) -> int:
        """Features of all keys of a token, or of all values."""
        return self.key_heads * self.head_size

    @property
    def matrices_up(self) -> int:
        """Matrices of the MLP that read its input."""
        return 2 if self.gated else 1

    @property
    def norm_parameters(self) -> int:
        """Elements of one norm."""
        return self.norm_tensors * self.hidden

    @property
    def norm_tensors(self) -> int:
        """Weight, and bias of a layer norm that has one."""
        return 2 if self.layernorm and self.bias else 1

    @property
    def norm_statistics(self) -> float:
        """Bytes that a norm keeps of one sample, its input apart.

        Mean and inverse deviation per token; without a fused kernel, as on CPUs, RMSNorm
        keeps the normalised input before its weight instead of the mean.
        """
        if not self.statistics:
            return 0.0
        if self.layernorm:
            return float(2 * self.sequence * self.widths.loss)
        return float(self.sequence * (self.widths.loss + self.hidden * self.widths.stream))
