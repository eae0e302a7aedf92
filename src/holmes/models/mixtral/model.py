"""A plain Mixtral for one device: a Llama whose MLP is a mixture of experts.

Shape suffixes as in :mod:`holmes.models.llama.model`, and T tokens of all samples, E experts,
C experts that each token takes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from holmes.models.common.blocks import TransformerBlock
from holmes.models.common.chain import Chain, Parts, autocast, loss, named_parameters
from holmes.models.llama.model import PARTS as LLAMA
from holmes.models.llama.model import Attention, Mlp, make_norm
from holmes.models.mixtral.describe import MixtralConfig

__all__ = ["Mixtral", "Mixture", "autocast", "build_blocks", "loss", "named_parameters"]


class Mixture(nn.Module):
    """Each token through the ``top_k`` experts that its router likes best, weighed by the
    softmax over these (Jiang et al. 2024, section 2.1). No token is dropped."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.router = nn.Linear(config.hidden, config.experts, bias=False)
        self.experts = nn.ModuleList(Mlp(config) for _ in range(config.experts))

    def forward(self, x_BSD: Tensor) -> Tensor:
        x_TD = x_BSD.flatten(0, 1)
        weights_TC, chosen_TC = self.choose(x_TD)
        mixed_TD = torch.zeros_like(x_TD)
        for index, expert in enumerate(self.experts):
            token, place = torch.where(chosen_TC == index)
            part = expert(x_TD[token]) * weights_TC[token, place, None]
            mixed_TD.index_add_(0, token, part.to(mixed_TD.dtype))
        return mixed_TD.view_as(x_BSD)

    def choose(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """(weights, experts) of each token, the most liked first; weights add up to 1."""
        logits_TE = self.router(x_TD)
        wide = torch.promote_types(logits_TE.dtype, torch.float32)
        best_TC, chosen_TC = functional.softmax(logits_TE, -1, dtype=wide).topk(self.top_k)
        return best_TC / best_TC.sum(-1, keepdim=True), chosen_TC


def _transformer(config: MixtralConfig, layer: int) -> TransformerBlock:
    attention = Attention(config, layer)
    return TransformerBlock(make_norm(config), attention, make_norm(config), Mixture(config))


PARTS = Parts(LLAMA.embedding, _transformer, LLAMA.head)
build_blocks = PARTS.build


class Mixtral(Chain):
    """The whole model on one device."""

    parts = PARTS
