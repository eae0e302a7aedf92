"""Llama and Mixtral: published sizes, the plain model against obvious twins, bad input."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from holmes.errors import ConfigError
from holmes.job.resolve import resolve_job
from holmes.models.llama.config import PRESETS, LlamaConfig, config_from
from holmes.models.llama.describe import parameter_count, workload
from holmes.models.llama.model import Attention, Llama, build_blocks, loss, named_parameters
from holmes.models.mixtral import describe as mixtral
from holmes.models.registry import (
    FAMILIES,
    describe,
    family_of,
    sharding_module,
    weights_module,
)
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES, refusals
from holmes.train.planning import request_of, runnable
from holmes.workload import Collective, Segment

TINY = LlamaConfig(2, 32, 4, 16, 67, key_heads=2)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama2-7b", 6_738_415_616),
        ("llama2-13b", 13_015_864_320),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("llama3-405b", 405_853_388_800),
    ],
)
def test_presets_have_the_parameters_that_were_released(name: str, parameters: int) -> None:
    assert parameter_count(PRESETS[name]) == parameters


def test_mixtral_has_all_experts_parameters_and_the_flops_of_the_chosen() -> None:
    config = mixtral.PRESETS["mixtral-8x7b"]
    assert mixtral.parameter_count(config) == 46_702_792_704
    layer = mixtral.workload(config, "mixed").blocks[1]
    dense = workload(replace(PRESETS["llama2-7b"], key_heads=8, ffn=14336), "mixed").blocks[1]
    s, h, f = config.sequence, config.hidden, config.inner
    # One MLP more than the dense layer, and the router.
    assert layer.flops_forward == dense.flops_forward + 6 * s * h * f + 2 * s * h * 8
    assert layer.expert_parameters == 8 * 3 * h * f
    assert layer.parameters_on_rank(tp=1, ep=8) == layer.parameters - 7 * 3 * h * f
    for part in layer.inner:
        if isinstance(part, Segment) and part.products:
            assert sum(product.flops for product in part.products) == part.flops


def test_tokens_go_to_their_experts_and_back_in_both_directions() -> None:
    config = mixtral.PRESETS["mixtral-8x7b"]
    inner = mixtral.workload(config, "mixed").blocks[1].inner
    exchanged = [p for p in inner if isinstance(p, Collective) and p.axis == "expert"]
    assert [c.direction for c in exchanged] == ["forward", "backward"] * 2
    assert all(c.bound and c.op == "all_to_all" for c in exchanged)
    assert {c.bytes_ for c in exchanged} == {2 * 2 * config.sequence * config.hidden}


@pytest.mark.parametrize("module", [weights_module, sharding_module])
def test_mixtral_is_planned_not_trained(module: Any) -> None:
    with pytest.raises(ConfigError, match="planned, not trained") as caught:
        module("mixtral")
    assert str(caught.value.next_step).endswith(": gpt, llama")


class SlowGroupedAttention(torch.nn.Module):
    """The obvious twin: one head and one query at a time."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: torch.Tensor | None
    ) -> torch.Tensor:
        out = torch.empty_like(q)
        for head in range(q.shape[1]):
            group = head * k.shape[1] // q.shape[1]
            for t in range(q.shape[2]):
                seen = k[:, group, : t + 1]
                scores = (seen * q[:, head, t, None]).sum(-1) / math.sqrt(q.shape[3])
                out[:, head, t] = (scores.softmax(-1)[..., None] * v[:, group, : t + 1]).sum(1)
        return out


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["fused", "unfused"])
def test_cores_equal_the_obvious_one(key_heads: int, kind: Any) -> None:
    model = Llama(replace(TINY, key_heads=key_heads, attention=kind), dtype=torch.float64)
    ids = torch.randint(67, (2, 16), generator=torch.Generator().manual_seed(5))
    fast = model(ids)
    for block in model.blocks[1:-1]:
        assert isinstance(block.attention, Attention)
        block.attention.core = SlowGroupedAttention()
    assert (model(ids) - fast).abs().max() < 1e-12


def test_starts_near_ln_vocabulary_sees_no_future_and_learns_everywhere() -> None:
    model = Llama(TINY, dtype=torch.float64)
    ids = torch.randint(67, (2, 17), generator=torch.Generator().manual_seed(5))
    value = loss(model(ids[:, :-1]), ids[:, 1:])
    assert abs(value.item() - math.log(67)) < 0.1
    value.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, name
    changed = ids[:1, :-1].clone()
    changed[0, 9] = (changed[0, 9] + 1) % 67
    difference = (model(ids[:1, :-1]) - model(changed)).abs().amax(dim=2)[0]
    assert difference[:9].max() == 0
    assert difference[9:].min() > 0


def test_a_block_is_the_same_whoever_builds_it_and_a_tied_head_starts_as_the_table() -> None:
    for tied in (True, False):
        config = replace(TINY, tied=tied)
        whole = dict(named_parameters(Llama(config, seed=3).blocks, 0))
        canonical = sharding_module("llama").canonical_name
        for start, stop in ((0, 1), (1, 3), (2, 4)):
            built = build_blocks(config, start, stop, seed=3)
            for name, parameter in named_parameters(built, start):
                assert torch.equal(parameter, whole[canonical(config, name)]), name


@pytest.mark.parametrize(
    ("spec", "where", "says"),
    [
        ({"preset": "llama3-9b"}, "model.preset", "llama3-8b"),
        ({"preset": "llama-1m", "key_heads": 3}, "model.key_heads", "divisor of 4"),
        ({"preset": "llama-1m", "key_heads": 0}, "model.key_heads", "between 1"),
        ({"preset": "llama-1m", "attention": "flash"}, "model.attention", "fused, unfused"),
        ({"preset": "llama-1m", "attention": None}, "model.attention", "fused, unfused"),
        ({"preset": "llama-1m", "rotary_base": 0.5}, "model.rotary_base", "above 1"),
        ({"preset": "llama-1m", "rotary_base": "wide"}, "model.rotary_base", "a number"),
        ({"preset": "llama-1m", "heads": 128}, "model.heads", "even"),
        ({"preset": "llama-1m", "bias": True}, "model.bias", "known keys"),
        ({"layers": 2, "hidden": 8}, "model", "preset: llama-1m"),
    ],
)
def test_a_bad_llama_is_one_clear_error(spec: dict[str, object], where: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from(spec)
    assert caught.value.where == where
    assert says in str(caught.value)


def test_more_chosen_experts_than_there_are() -> None:
    with pytest.raises(ConfigError, match="experts"):
        mixtral.config_from({"preset": "mixtral-8x7b", "top_k": 9})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_preset_alone_finds_its_family(family: str) -> None:
    for name, config in describe(family).PRESETS.items():
        assert family_of({"preset": name}) == family
        assert describe(family).config_from(name) == config
        assert describe(family).workload(config).name == name


def test_a_misspelt_preset_finds_the_family_of_the_nearest() -> None:
    assert family_of({"preset": "lama3-8b"}) == "llama"
    assert family_of({"preset": "nothing like it"}) == "gpt"


def test_a_run_with_experts_is_refused_and_a_plan_says_so() -> None:
    quick = ("parallel.schedule=1f1b", "parallel.sharding=optimizer", "parallel.expert=4")
    job = resolve_job(None, quick, {"site": "paper", "model": "mixtral-8x7b", "global_batch": 64})
    with pytest.raises(ConfigError, match="planned, not trained"):
        runnable(job, on_gpu=True)
    with pytest.raises(ConfigError, match="planned, not trained"):
        request_of(job, capabilities=CAPABILITIES)
    plan = make_plan(request_of(job, capabilities=None))
    found = refusals(plan, CAPABILITIES)
    assert {"mixtures of 8 experts", "expert parallelism (degree 4)"} <= {*found}


def test_describing_every_family_imports_no_torch() -> None:
    code = (
        "import sys, holmes.models.registry as r\n"
        "for f in r.FAMILIES:\n"
        "    d = r.describe(f); d.workload(next(iter(d.PRESETS.values())), 'mixed')\n"
        "r.sharding_module('llama'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
