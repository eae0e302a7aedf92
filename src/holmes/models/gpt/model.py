"""A plain GPT for one device, as a chain of blocks.

Shape suffixes: B samples, S tokens, D hidden, H heads, K features per head, F inner
width. Parallelism is declared beside this file, in ``sharding.py``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.attention import Rotary, attention_core
from holmes.models.common.blocks import Embedding, Head, TransformerBlock
from holmes.models.common.chain import Chain, Parts, autocast, loss, named_parameters
from holmes.models.gpt.config import GptConfig

__all__ = ["Gpt", "autocast", "build_blocks", "loss", "named_parameters"]


class Attention(nn.Module):
    """Multi-head self-attention with a swappable ``core``."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        d = config.hidden
        self.query = nn.Linear(d, d, bias=config.bias)
        self.key = nn.Linear(d, d, bias=config.bias)
        self.value = nn.Linear(d, d, bias=config.bias)
        self.output = nn.Linear(d, d, bias=config.bias)
        rotary = config.positions == "rotary"
        self.rotary = Rotary(config.sequence, config.head_size) if rotary else None
        self.core = attention_core(config.attention)

    def forward(self, x_BSD: Tensor, documents_BS: Tensor | None = None) -> Tensor:
        q, k, v = (self._split(f(x_BSD)) for f in (self.query, self.key, self.value))
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mixed_BHSK = self.core(q, k, v, documents_BS)
        return self.output(mixed_BHSK.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x_BSD: Tensor) -> Tensor:
        samples, length, _ = x_BSD.shape
        return x_BSD.view(samples, length, -1, self.head_size).transpose(1, 2)


class Mlp(nn.Module):
    """GELU: down(gelu(up x)). SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        d, f = config.hidden, config.inner
        self.approximate = "tanh" if config.mlp == "gelu-tanh" else "none"
        self.up = nn.Linear(d, f, bias=config.bias)
        self.gate = nn.Linear(d, f, bias=config.bias) if config.mlp == "swiglu" else None
        self.down = nn.Linear(f, d, bias=config.bias)

    def forward(self, x_BSD: Tensor) -> Tensor:
        up_BSF = self.up(x_BSD)
        if self.gate is None:
            bent_BSF = functional.gelu(up_BSF, approximate=self.approximate)
            return self.down(bent_BSF)  # type: ignore[no-any-return]
        return self.down(functional.silu(self.gate(x_BSD)) * up_BSF)  # type: ignore[no-any-return]


def make_norm(config: GptConfig) -> nn.Module:
    """The norm that the configuration asks for."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.hidden, eps=config.norm_epsilon)
    return nn.LayerNorm(config.hidden, eps=config.norm_epsilon, bias=config.bias)


def _embedding(config: GptConfig) -> Embedding:
    positions = config.sequence if config.positions == "learned" else 0
    return Embedding(config.vocabulary, config.hidden, positions)


def _transformer(config: GptConfig, _layer: int) -> TransformerBlock:
    return TransformerBlock(make_norm(config), Attention(config), make_norm(config), Mlp(config))


def _head(config: GptConfig) -> Head:
    return Head(make_norm(config), config.hidden, config.vocabulary)


PARTS = Parts(_embedding, _transformer, _head)
build_blocks = PARTS.build


class Gpt(Chain):
    """The whole model on one device."""

    parts = PARTS
