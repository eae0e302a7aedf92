"""Selective recomputation: the attention core runs again in the backward
(Korthikanti et al. 2022, section 5)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class RecomputedCore(nn.Module):
    """An attention core that keeps its inputs only."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.inner = core

    def forward(self, *arguments: Tensor | None) -> Tensor:
        """What the core returns; its own activations are computed again when needed."""
        return checkpoint(self.inner, *arguments, use_reentrant=False)  # type: ignore[no-any-return]


def recompute_attention(blocks: Iterable[nn.Module]) -> None:
    """Wrap the swappable ``core`` of every attention in these blocks."""
    for block in blocks:
        for module in list(block.modules()):
            core = getattr(module, "core", None)
            if isinstance(core, nn.Module):
                module.core = RecomputedCore(core)
