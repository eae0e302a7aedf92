"""A model as a chain of blocks: building a range of them, names, initial values, loss."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.attention import Rotary

INIT_STD = 0.02
IGNORED = -100
"""The target of a token whose successor is no prediction: it begins another document."""
HEAD_WEIGHT = "projection.weight"
BRANCH_ENDS = ("attention.output.weight", "mlp.down.weight")
"""Weights that end a branch, added to the residual stream."""


class ChainConfig(Protocol):
    """What building a chain needs to know of a family's configuration."""

    @property
    def layers(self) -> int: ...

    @property
    def blocks(self) -> int: ...

    @property
    def tied(self) -> bool: ...


@dataclass(frozen=True)
class Parts:
    """What makes each kind of block of a family from its configuration, values left open.

    The first block's table is ``token.weight``, the last one's weight ``projection.weight``;
    a transformer block is told which layer it is, from 0.
    """

    embedding: Callable[[Any], nn.Module]
    transformer: Callable[[Any, int], nn.Module]
    head: Callable[[Any], nn.Module]

    def empty(self, config: ChainConfig, index: int) -> nn.Module:
        """Block ``index`` of the chain."""
        if index == 0:
            return self.embedding(config)
        if index == config.blocks - 1:
            return self.head(config)
        return self.transformer(config, index - 1)

    def build(
        self,
        config: ChainConfig,
        start: int,
        stop: int,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        absent: bool = False,
    ) -> list[nn.Module]:
        """Blocks [start, stop) of the chain, initialised.

        The weights of block i depend on (seed, i) alone, so whichever stage builds it gets
        the same. A tied head starts from the token table of block 0; when the range holds
        both ends, the two are one parameter.

        Args:
            device: ``meta`` leaves the parameters without storage and initial values.
            absent: parameters stay on ``meta`` for whoever brings their values; the tables of
                angles are on ``device``.
        """
        blocks: list[nn.Module] = []
        for index in range(start, stop):
            with torch.device("meta"):
                block = self.empty(config, index)
            if not absent and torch.device(device).type != "meta":
                block = block.to_empty(device="cpu")
                _initialise(block, config, seed, index)
            block = block.to(dtype)
            if not absent:
                block = block.to(device)
            for module in block.modules():
                if isinstance(module, Rotary):
                    module.fill(device)
            blocks.append(block)
        if config.tied and stop - start == config.blocks:
            blocks[-1].projection.weight = blocks[0].token.weight  # type: ignore[union-attr]
        return blocks


class Chain(nn.Module):
    """The whole chain on one device; its parameter names are the global ones.

    Args:
        options: ``seed``, ``dtype`` and ``device`` of :meth:`Parts.build`.
    """

    parts: ClassVar[Parts]

    def __init__(self, config: ChainConfig, **options: Any) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(self.parts.build(config, 0, config.blocks, **options))

    def forward(self, tokens_BS: Tensor, documents_BS: Tensor | None = None) -> Tensor:
        """Logits [B, S, V] of token ids [B, S]."""
        x = tokens_BS
        for block in self.blocks:
            x = block(x, documents_BS)
        return x


def named_parameters(blocks: Sequence[nn.Module], start: int) -> Iterator[tuple[str, nn.Parameter]]:
    """(global name, parameter) in model order; a weight shared inside the range comes once."""
    seen: set[int] = set()
    for index, block in enumerate(blocks, start):
        for name, parameter in block.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"blocks.{index}.{name}", parameter


def loss(logits_BSV: Tensor, targets_BS: Tensor) -> Tensor:
    """Cross-entropy summed over the targets that count and divided by all, in fp32 at least.

    A target of ``IGNORED`` does not count; of a context rank's tokens it may be none.
    """
    logits = logits_BSV.flatten(0, 1)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    targets = targets_BS.flatten()
    total = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return total / targets.numel()


def autocast(precision: str, device_type: str = "cpu") -> AbstractContextManager[object]:
    """The context a block's forward runs in: autocast for ``bf16`` and ``fp16``, else none."""
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return nullcontext() if narrow is None else torch.autocast(device_type, dtype=narrow)


def block_generator(seed: int, index: int) -> torch.Generator:
    """The source of randomness of one block, far apart for near seeds and indices."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


@torch.no_grad()
def _initialise(block: nn.Module, config: ChainConfig, seed: int, index: int) -> None:
    """GPT-2's rule: normal weights of 0.02, those that end a branch over sqrt(2 layers)."""
    generator = block_generator(seed, index)
    branch_std = INIT_STD / math.sqrt(2 * config.layers)
    for name, parameter in block.named_parameters():
        if name == HEAD_WEIGHT and config.tied:
            parameter.normal_(0.0, INIT_STD, generator=block_generator(seed, 0))
        elif name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        else:
            std = branch_std if name in BRANCH_ENDS else INIT_STD
            parameter.normal_(0.0, std, generator=generator)
