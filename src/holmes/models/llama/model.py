"""A plain Llama for one device, as a chain of blocks; by configuration also a Mistral or Qwen.

Shape suffixes: B samples, S tokens, D hidden, H heads, G heads of keys and values, K
features per head, F inner width. Parallelism is declared beside this file, in
``sharding.py``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.attention import Rotary, attention_core
from holmes.models.common.blocks import Embedding, Head, TransformerBlock
from holmes.models.common.chain import Chain, Parts, autocast, loss, named_parameters
from holmes.models.llama.config import LlamaConfig

__all__ = ["Llama", "autocast", "build_blocks", "loss", "named_parameters"]


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions and a swappable ``core``."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        size = self.head_size = config.head_size
        d, queries, keys = config.hidden, config.heads * size, config.groups * size
        self.query = nn.Linear(d, queries, bias=config.qkv_bias)
        self.key = nn.Linear(d, keys, bias=config.qkv_bias)
        self.value = nn.Linear(d, keys, bias=config.qkv_bias)
        self.output = nn.Linear(queries, d, bias=False)
        epsilon = config.norm_epsilon
        self.query_norm = nn.RMSNorm(size, eps=epsilon) if config.qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(size, eps=epsilon) if config.qk_norm else nn.Identity()
        self.rotary = Rotary(config.sequence, size, config.rotary_base, config.scaling)
        self.core = attention_core(config.attention, config.window_of(layer))

    def forward(self, x_BSD: Tensor, documents_BS: Tensor | None = None) -> Tensor:
        q_BHSK = self.rotary(self.query_norm(self._split(self.query(x_BSD))).transpose(1, 2))
        k_BGSK = self.rotary(self.key_norm(self._split(self.key(x_BSD))).transpose(1, 2))
        v_BGSK = self._split(self.value(x_BSD)).transpose(1, 2)
        mixed_BHSK = self.core(q_BHSK, k_BGSK, v_BGSK, documents_BS)
        return self.output(mixed_BHSK.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x_BSD: Tensor) -> Tensor:
        samples, length, _ = x_BSD.shape
        return x_BSD.view(samples, length, -1, self.head_size)


class Mlp(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate x) * up x)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        d, f = config.hidden, config.inner
        self.gate = nn.Linear(d, f, bias=False)
        self.up = nn.Linear(d, f, bias=False)
        self.down = nn.Linear(f, d, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        inner_BSF = functional.silu(self.gate(x_BSD)) * self.up(x_BSD)
        return self.down(inner_BSF)  # type: ignore[no-any-return]


def make_norm(config: LlamaConfig) -> nn.Module:
    """RMSNorm over the residual stream."""
    return nn.RMSNorm(config.hidden, eps=config.norm_epsilon)


def _embedding(config: LlamaConfig) -> Embedding:
    return Embedding(config.vocabulary, config.hidden)


def _transformer(config: LlamaConfig, layer: int) -> TransformerBlock:
    attention = Attention(config, layer)
    return TransformerBlock(make_norm(config), attention, make_norm(config), Mlp(config))


def _head(config: LlamaConfig) -> Head:
    return Head(make_norm(config), config.hidden, config.vocabulary)


PARTS = Parts(_embedding, _transformer, _head)
build_blocks = PARTS.build


class Llama(Chain):
    """The whole model on one device."""

    parts = PARTS
