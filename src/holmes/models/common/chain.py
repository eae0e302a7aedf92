"""A model as a chain of blocks: building a range of them, names, initial values, loss."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.attention import Rotary

INIT_STD = 0.02
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


def build_range(
    config: ChainConfig,
    empty_block: Callable[[int], nn.Module],
    chosen: range,
    *,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> list[nn.Module]:
    """The blocks of a contiguous range, initialised.

    The weights of block i depend on (seed, i) alone, so whichever stage builds it gets
    the same. A tied head starts from the token table of block 0; when the range holds
    both ends, the two are one parameter.

    Args:
        empty_block: makes block i; its values are overwritten. The first block's table is
            ``token.weight``, the last one's weight ``projection.weight``.
        device: ``meta`` leaves the parameters without storage and initial values.
    """
    blocks: list[nn.Module] = []
    for index in chosen:
        with torch.device("meta"):
            block = empty_block(index)
        if torch.device(device).type != "meta":
            block = block.to_empty(device="cpu")
            _initialise(block, config, seed, index)
        block = block.to(dtype).to(device)
        for module in block.modules():
            if isinstance(module, Rotary):
                module.fill()
        blocks.append(block)
    if config.tied and len(chosen) == config.blocks:
        blocks[-1].projection.weight = blocks[0].token.weight  # type: ignore[union-attr]
    return blocks


def named_parameters(blocks: Sequence[nn.Module], start: int) -> Iterator[tuple[str, nn.Parameter]]:
    """(global name, parameter) in model order; a weight shared inside the range comes once."""
    seen: set[int] = set()
    for index, block in enumerate(blocks, start):
        for name, parameter in block.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"blocks.{index}.{name}", parameter


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
