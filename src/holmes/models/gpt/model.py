"""A plain GPT for one device, as a chain of blocks.

Shape suffixes: B samples, S tokens, D hidden, H heads, K features per head, F inner
width, V vocabulary. Parallelism is declared beside this file, in ``sharding.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.attention import Rotary, attention_core
from holmes.models.common.chain import autocast, build_range, loss, named_parameters
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

    def forward(self, x_BSD: Tensor) -> Tensor:
        q, k, v = (self._split(f(x_BSD)) for f in (self.query, self.key, self.value))
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mixed_BHSK = self.core(q, k, v)
        return self.output(mixed_BHSK.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x_BSD: Tensor) -> Tensor:
        samples, length, _ = x_BSD.shape
        return x_BSD.view(samples, length, -1, self.head_size).transpose(1, 2)


class Mlp(nn.Module):
    """GELU: down(gelu(up x)). SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        d, f = config.hidden, config.inner
        self.up = nn.Linear(d, f, bias=config.bias)
        self.gate = nn.Linear(d, f, bias=config.bias) if config.mlp == "swiglu" else None
        self.down = nn.Linear(f, d, bias=config.bias)

    def forward(self, x_BSD: Tensor) -> Tensor:
        up_BSF = self.up(x_BSD)
        if self.gate is None:
            return self.down(functional.gelu(up_BSF))  # type: ignore[no-any-return]
        return self.down(functional.silu(self.gate(x_BSD)) * up_BSF)  # type: ignore[no-any-return]


def make_norm(config: GptConfig) -> nn.Module:
    """The norm that the configuration asks for."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.hidden, eps=1e-5)
    return nn.LayerNorm(config.hidden, bias=config.bias)


class Embedding(nn.Module):
    """Block 0: token ids [B, S] to the residual stream [B, S, D]."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.hidden)
        learned = config.positions == "learned"
        self.position = nn.Embedding(config.sequence, config.hidden) if learned else None

    def forward(self, tokens_BS: Tensor) -> Tensor:
        x_BSD: Tensor = self.token(tokens_BS)
        if self.position is None:
            return x_BSD
        positions_S = torch.arange(tokens_BS.shape[1], device=tokens_BS.device)
        return x_BSD + self.position(positions_S)  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm block: x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.norm1 = make_norm(config)
        self.attention = Attention(config)
        self.norm2 = make_norm(config)
        self.mlp = Mlp(config)

    def forward(self, x_BSD: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attention(self.norm1(x_BSD))
        return x_BSD + self.mlp(self.norm2(x_BSD))  # type: ignore[no-any-return]


class Head(nn.Module):
    """Last block: final norm and logits [B, S, V]."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.norm = make_norm(config)
        self.projection = nn.Linear(config.hidden, config.vocabulary, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        return self.projection(self.norm(x_BSD))  # type: ignore[no-any-return]


class Gpt(nn.Module):
    """The whole chain on one device; its parameter names are the global ones."""

    def __init__(
        self,
        config: GptConfig,
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
    config: GptConfig,
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
