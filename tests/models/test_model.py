"""The plain GPT: values, names, initialisation, and against its own description."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from holmes.models.common.attention import rotary_angles, rotate
from holmes.models.gpt.config import GptConfig
from holmes.models.gpt.describe import parameter_count, workload
from holmes.models.gpt.model import Attention, Gpt, autocast, build_blocks, loss, named_parameters
from holmes.models.gpt.sharding import (
    canonical_name,
    decays,
    tensor_dim,
    tied_parameters,
    zero_gradient_parameters,
)

GRID = [
    GptConfig(2, 32, 4, 16, 67, mlp=mlp, positions=positions, tied=tied, bias=bias, norm=norm)
    for mlp, positions, tied, bias, norm in itertools.product(
        ("gelu", "swiglu"),
        ("learned", "rotary"),
        (True, False),
        (True, False),
        ("layernorm", "rmsnorm"),
    )
]


def tokens(config: GptConfig, samples: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(config.vocabulary, (samples, config.sequence + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


@pytest.mark.parametrize("config", GRID, ids=str)
def test_description_counts_the_parameters_of_the_model(config: GptConfig) -> None:
    described = workload(config)
    blocks = [build_blocks(config, i, i + 1)[0] for i in range(config.blocks)]
    for block, built in zip(described.blocks, blocks, strict=True):
        parameters = list(built.parameters())
        assert block.parameters == sum(p.numel() for p in parameters), block.name
        assert block.tensors == len(parameters), block.name
    assert parameter_count(config) == sum(p.numel() for p in Gpt(config).parameters())


@pytest.mark.parametrize("config", GRID, ids=str)
def test_a_block_is_the_same_whoever_builds_it(config: GptConfig) -> None:
    whole = dict(named_parameters(Gpt(config, seed=3).blocks, 0))
    for start, stop in ((0, 1), (1, 3), (2, config.blocks)):
        for name, parameter in named_parameters(build_blocks(config, start, stop, seed=3), start):
            assert torch.equal(parameter, whole[canonical_name(config, name)]), name
    other = dict(named_parameters(Gpt(config, seed=4).blocks, 0))
    assert not torch.equal(whole["blocks.1.mlp.up.weight"], other["blocks.1.mlp.up.weight"])
    assert not torch.equal(whole["blocks.1.mlp.up.weight"], whole["blocks.2.mlp.up.weight"])


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    Gpt(GRID[0], seed=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("config", GRID, ids=str)
def test_starts_near_ln_vocabulary_and_every_gradient_is_alive_but_the_listed(
    config: GptConfig,
) -> None:
    model = Gpt(config, dtype=torch.float64)
    ids, targets = tokens(config)
    value = loss(model(ids), targets)
    assert abs(value.item() - math.log(config.vocabulary)) < 0.1
    value.backward()
    zero = zero_gradient_parameters(config)
    names = dict(model.named_parameters())
    assert zero <= set(names)
    for name, parameter in names.items():
        assert parameter.grad is not None
        largest = parameter.grad.abs().max().item()
        assert (largest < 1e-15) == (name in zero), (name, largest)


def test_a_token_sees_nothing_of_the_future() -> None:
    for config in GRID[:8]:
        model = Gpt(config, dtype=torch.float64)
        ids, _ = tokens(config, 1)
        changed = ids.clone()
        changed[0, 9] = (changed[0, 9] + 1) % config.vocabulary
        difference = (model(ids) - model(changed)).abs().amax(dim=2)[0]
        assert difference[:9].max() == 0
        assert difference[9:].min() > 0


class SlowAttention(nn.Module):
    """The obvious twin: one query at a time."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: torch.Tensor | None
    ) -> torch.Tensor:
        out = torch.empty_like(q)
        for t in range(q.shape[2]):
            scores = (k[:, :, : t + 1] * q[:, :, t : t + 1]).sum(-1) / math.sqrt(q.shape[3])
            out[:, :, t] = (scores.softmax(-1)[..., None] * v[:, :, : t + 1]).sum(2)
        return out


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_attention_core_can_be_swapped_and_the_default_equals_the_obvious(positions: str) -> None:
    config = GptConfig(1, 32, 4, 16, 67, positions=positions)  # type: ignore[arg-type]
    model = Gpt(config, dtype=torch.float64)
    ids, _ = tokens(config)
    fast = model(ids)
    attention = model.blocks[1].attention
    assert isinstance(attention, Attention)
    attention.core = SlowAttention()
    assert (model(ids) - fast).abs().max() < 1e-12


def test_rotary_scores_depend_on_distance_alone() -> None:
    angles = rotary_angles(32, 8).repeat(1, 2)
    q = torch.randn(1, 1, 1, 8, dtype=torch.float64).expand(1, 1, 32, 8)
    k = torch.randn(1, 1, 1, 8, dtype=torch.float64).expand(1, 1, 32, 8)
    scores = (rotate(q, angles.cos(), angles.sin()) @ rotate(k, angles.cos(), angles.sin()).mT)[
        0, 0
    ]
    for distance in (0, 1, 7):
        diagonal = scores.diagonal(-distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-12
    assert (scores.diagonal(0)[0] - scores.diagonal(-3)[0]).abs() > 1e-6


def test_tied_head_and_table_are_one_parameter_and_learn_as_one() -> None:
    config = GptConfig(1, 32, 4, 16, 67, tied=True)
    model = Gpt(config)
    ((first, twin),) = tied_parameters(config)
    assert first in dict(model.named_parameters())
    assert twin not in dict(model.named_parameters())
    assert model.get_parameter(first) is model.get_parameter(twin)
    split = build_blocks(config, 0, 2) + build_blocks(config, 2, 3)
    ids, targets = tokens(config)
    x = ids
    for block in split:
        x = block(x)
    loss(x, targets).backward()
    loss(model(ids), targets).backward()
    table, projection = split[0].token.weight, split[2].projection.weight
    assert torch.equal(table, projection) and table is not projection
    assert table.grad is not None and projection.grad is not None
    whole = model.get_parameter(first).grad
    assert whole is not None
    assert (table.grad + projection.grad - whole).abs().max() <= 1e-6 * whole.abs().max()


def test_a_small_model_learns() -> None:
    config = GptConfig(2, 32, 4, 16, 67)
    model = Gpt(config)
    ids, targets = tokens(config, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        value = loss(model(ids), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]


def test_bf16_autocast_keeps_the_residual_stream_in_fp32() -> None:
    config = GptConfig(1, 32, 4, 16, 67)
    model = Gpt(config)
    ids, targets = tokens(config)
    with autocast("bf16"):
        stream = model.blocks[1](model.blocks[0](ids))
        value = loss(model.blocks[2](stream), targets)
    assert stream.dtype == torch.float32
    assert value.dtype == torch.float32
    assert abs(value.item() - loss(model(ids), targets).item()) < 0.02
    with autocast("fp32"):
        assert model(ids).dtype == torch.float32


def test_decay_and_split_are_declared_for_every_parameter() -> None:
    for config in GRID:
        for name, parameter in Gpt(config).named_parameters():
            assert decays(parameter.shape) == (name.endswith(".weight") and "norm" not in name), (
                name
            )
            dim = tensor_dim(name)
            if dim is not None:
                assert parameter.shape[dim] in (config.hidden, config.inner, config.vocabulary)
    assert tensor_dim("blocks.1.attention.query.bias") == 0
    assert tensor_dim("blocks.1.attention.output.bias") is None
    assert tensor_dim("blocks.1.mlp.down.weight") == 1
    assert tensor_dim("blocks.0.position.weight") is None


def test_column_then_row_split_gives_the_whole_mlp() -> None:
    """What the declaration promises, on two pretended tensor ranks."""
    config = GptConfig(1, 32, 4, 16, 67)
    mlp = Gpt(config, dtype=torch.float64).blocks[1].mlp
    x = torch.randn(3, 32, dtype=torch.float64)
    parts = []
    for rank in range(2):
        up = mlp.up.weight.chunk(2, dim=0)[rank]
        bias = mlp.up.bias.chunk(2, dim=0)[rank]
        down = mlp.down.weight.chunk(2, dim=1)[rank]
        parts.append(functional.gelu(x @ up.T + bias) @ down.T)
    assert (parts[0] + parts[1] + mlp.down.bias - mlp(x)).abs().max() < 1e-12
