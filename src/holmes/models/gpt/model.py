"""A plain GPT for one device, as a chain of blocks.

Shape suffixes: B samples, S tokens, D hidden, H heads, K features per head, F inner
width, V vocabulary. Parallelism is declared beside this file, in ``sharding.py``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from holmes.models.gpt.config import GptConfig

INIT_STD = 0.02


class CausalAttention(nn.Module):
    """The default core of :class:`Attention`; any module of this signature may replace it."""

    def forward(self, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> Tensor:
        """Softmax attention in which a token sees itself and what came before."""
        return functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, is_causal=True)


def rotary_angles(sequence: int, head_size: int) -> Tensor:
    """Angles [S, K/2] in fp64: position times 10000^(-2i/K) (Su et al. 2021, equation 15)."""
    rates = 10000.0 ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    return torch.outer(torch.arange(sequence, dtype=torch.float64), rates)


def rotate(x_BHSK: Tensor, cos_SK: Tensor, sin_SK: Tensor) -> Tensor:
    """Turn the feature pairs (i, i + K/2) by the angle of each position."""
    length = x_BHSK.shape[2]
    first, second = x_BHSK.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BHSK * cos_SK[:length] + turned * sin_SK[:length]).to(x_BHSK.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with a swappable ``core``."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.rotary = config.positions == "rotary"
        d = config.hidden
        self.query = nn.Linear(d, d, bias=config.bias)
        self.key = nn.Linear(d, d, bias=config.bias)
        self.value = nn.Linear(d, d, bias=config.bias)
        self.output = nn.Linear(d, d, bias=config.bias)
        self.core: nn.Module = CausalAttention()
        if self.rotary:
            shape = (config.sequence, config.head_size)
            self.register_buffer("cos", torch.empty(shape), persistent=False)
            self.register_buffer("sin", torch.empty(shape), persistent=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        q, k, v = (self._split(f(x_BSD)) for f in (self.query, self.key, self.value))
        if self.rotary:
            q, k = (rotate(x, self.cos, self.sin) for x in (q, k))
        mixed_BHSK = self.core(q, k, v)
        return self.output(mixed_BHSK.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x_BSD: Tensor) -> Tensor:
        samples, length, _ = x_BSD.shape
        return x_BSD.view(samples, length, self.heads, -1).transpose(1, 2)

    @torch.no_grad()
    def fill_angles(self) -> None:
        """Write the tables of cosines and sines."""
        if self.rotary:
            length, head_size = self.cos.shape
            angles = rotary_angles(length, head_size).repeat(1, 2)
            self.cos.copy_(angles.cos())
            self.sin.copy_(angles.sin())


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


def loss(logits_BSV: Tensor, targets_BS: Tensor) -> Tensor:
    """Mean cross-entropy over all tokens, in fp32 at least."""
    logits = logits_BSV.flatten(0, 1)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return functional.cross_entropy(logits, targets_BS.flatten())


def autocast(precision: str, device_type: str = "cpu") -> AbstractContextManager[object]:
    """The context a block's forward runs in: bf16 autocast for ``bf16``, else none."""
    if precision == "bf16":
        return torch.autocast(device_type, dtype=torch.bfloat16)
    return nullcontext()


def build_blocks(
    config: GptConfig,
    start: int,
    stop: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[nn.Module]:
    """Blocks [start, stop) of the chain, initialised.

    The weights of block i depend on (seed, i) alone, so whichever stage builds it gets
    the same. A tied head starts from the token table of block 0; when the range holds
    both ends, the two are one parameter.

    Args:
        device: ``meta`` leaves the parameters without storage and initial values.
    """
    blocks: list[nn.Module] = []
    for index in range(start, stop):
        with torch.device("meta"):
            block = _empty_block(config, index)
        if torch.device(device).type != "meta":
            block = block.to_empty(device="cpu")
            _initialise(block, config, seed, index)
        block = block.to(dtype).to(device)
        if isinstance(block, TransformerBlock):
            block.attention.fill_angles()
        blocks.append(block)
    if config.tied and start == 0 and stop == config.blocks:
        head, embedding = blocks[-1], blocks[0]
        assert isinstance(head, Head) and isinstance(embedding, Embedding)
        head.projection.weight = embedding.token.weight
    return blocks


def named_parameters(blocks: Sequence[nn.Module], start: int) -> Iterator[tuple[str, nn.Parameter]]:
    """(global name, parameter) in model order; a weight shared inside the range comes once."""
    seen: set[int] = set()
    for index, block in enumerate(blocks, start):
        for name, parameter in block.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"blocks.{index}.{name}", parameter


def _empty_block(config: GptConfig, index: int) -> nn.Module:
    if index == 0:
        return Embedding(config)
    return Head(config) if index == config.blocks - 1 else TransformerBlock(config)


def block_generator(seed: int, index: int) -> torch.Generator:
    """The source of randomness of one block, far apart for near seeds and indices."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


@torch.no_grad()
def _initialise(block: nn.Module, config: GptConfig, seed: int, index: int) -> None:
    """GPT-2's rule: normal weights of 0.02, those that end a branch over sqrt(2 layers)."""
    generator = block_generator(seed, index)
    if isinstance(block, Head) and config.tied:
        block.projection.weight.normal_(0.0, INIT_STD, generator=block_generator(seed, 0))
    branch_std = INIT_STD / math.sqrt(2 * config.layers)
    for name, parameter in block.named_parameters():
        if name == "projection.weight" and config.tied:
            continue
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        else:
            std = branch_std if name in ("attention.output.weight", "mlp.down.weight") else INIT_STD
            parameter.normal_(0.0, std, generator=generator)
