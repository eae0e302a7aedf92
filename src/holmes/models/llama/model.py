"""A plain Llama for one device, as a chain of blocks.

Shape suffixes: B samples, S tokens, D hidden, H heads, G heads of keys and values, K
features per head, F inner width, V vocabulary. Parallelism is declared beside this file,
in ``sharding.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.attention import Rotary, attention_core
from holmes.models.common.chain import autocast, build_range, loss, named_parameters
from holmes.models.llama.config import LlamaConfig

__all__ = ["Llama", "autocast", "build_blocks", "loss", "named_parameters"]

NORM_EPSILON = 1e-5


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions and a swappable ``core``."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        d, keys = config.hidden, config.groups * config.head_size
        self.query = nn.Linear(d, d, bias=False)
        self.key = nn.Linear(d, keys, bias=False)
        self.value = nn.Linear(d, keys, bias=False)
        self.output = nn.Linear(d, d, bias=False)
        self.rotary = Rotary(config.sequence, config.head_size, config.rotary_base)
        self.core = attention_core(config.attention)

    def forward(self, x_BSD: Tensor) -> Tensor:
        q_BHSK = self.rotary(self._split(self.query(x_BSD)))
        k_BGSK = self.rotary(self._split(self.key(x_BSD)))
        v_BGSK = self._split(self.value(x_BSD))
        mixed_BHSK = self.core(q_BHSK, k_BGSK, v_BGSK)
        return self.output(mixed_BHSK.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x_BSD: Tensor) -> Tensor:
        samples, length, _ = x_BSD.shape
        return x_BSD.view(samples, length, -1, self.head_size).transpose(1, 2)


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


class Embedding(nn.Module):
    """Block 0: token ids [B, S] to the residual stream [B, S, D]."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.hidden)

    def forward(self, tokens_BS: Tensor) -> Tensor:
        return self.token(tokens_BS)  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm block: x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.hidden, eps=NORM_EPSILON)
        self.attention = Attention(config)
        self.norm2 = nn.RMSNorm(config.hidden, eps=NORM_EPSILON)
        self.mlp = Mlp(config)

    def forward(self, x_BSD: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attention(self.norm1(x_BSD))
        return x_BSD + self.mlp(self.norm2(x_BSD))  # type: ignore[no-any-return]


class Head(nn.Module):
    """Last block: final norm and logits [B, S, V]."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden, eps=NORM_EPSILON)
        self.projection = nn.Linear(config.hidden, config.vocabulary, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        return self.projection(self.norm(x_BSD))  # type: ignore[no-any-return]


class Llama(nn.Module):
    """The whole chain on one device; its parameter names are the global ones."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.config = config
        blocks = build_blocks(config, 0, config.blocks, seed=seed, dtype=dtype, device=device)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """Logits [B, S, V] of token ids [B, S]."""
        x = tokens_BS
        for block in self.blocks:
            x = block(x)
        return x


def build_blocks(
    config: LlamaConfig,
    start: int,
    stop: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[nn.Module]:
    """Blocks [start, stop) of the chain, initialised; see :func:`build_range`."""

    def empty(index: int) -> nn.Module:
        if index == 0:
            return Embedding(config)
        return Head(config) if index == config.blocks - 1 else TransformerBlock(config)

    return build_range(config, empty, range(start, stop), seed=seed, dtype=dtype, device=device)
