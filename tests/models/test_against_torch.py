"""The descriptions of all families that have a torch model, against what torch counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from holmes.models.common.shape import Precision
from holmes.models.gpt.config import PRESETS as GPTS
from holmes.models.gpt.config import GptConfig
from holmes.models.llama.config import PRESETS as LLAMAS
from holmes.models.llama.config import LlamaConfig
from holmes.models.registry import describe, model_module, sharding_module
from holmes.workload import Segment
from tests.models.oracle import (
    counted_flops,
    kept_bytes,
    peak_of_head,
    selective_bytes_and_flops,
)

GPT_GRID = [
    GptConfig(2, 64, 4, 32, 101),
    GptConfig(2, 64, 2, 56, 203, mlp="swiglu", positions="rotary", tied=False),
    GptConfig(1, 128, 8, 48, 77, mlp="swiglu", bias=False, norm="rmsnorm"),
    GptConfig(1, 96, 4, 40, 333, ffn=200, attention="unfused"),
    GptConfig(1, 96, 4, 40, 333, mlp="gelu-tanh"),
]
LLAMA_GRID = [
    LlamaConfig(2, 64, 4, 32, 101),
    LlamaConfig(1, 64, 8, 56, 203, key_heads=2, tied=True),
    LlamaConfig(1, 96, 4, 40, 333, key_heads=1, ffn=200),
    LlamaConfig(1, 96, 4, 40, 333, key_heads=2, attention="unfused"),
    LlamaConfig(1, 96, 4, 40, 333, key_heads=2, head_dim=32, qk_norm=True),
    LlamaConfig(1, 96, 6, 40, 333, key_heads=2, head_dim=8, qkv_bias=True),
]
SMALL = [("gpt", c) for c in GPT_GRID] + [("llama", c) for c in LLAMA_GRID]
LARGE = [
    ("gpt", GPTS["gpt-125m"]),
    ("gpt", GPTS["gpt-1.7b"]),
    ("llama", replace(LLAMAS["llama3-8b"], layers=2)),
]
with_families = pytest.mark.parametrize(("family", "config"), SMALL, ids=str)


@pytest.mark.parametrize(("family", "config"), SMALL + LARGE, ids=str)
def test_flops_are_those_that_torch_counts(family: str, config: Any) -> None:
    work = describe(family).workload(config)
    forward, backward = counted_flops(family, config)
    assert sum(block.flops_forward for block in work.blocks) == forward
    assert sum(block.flops_backward for block in work.blocks) == backward


@with_families
def test_products_make_up_the_flops_of_their_segments(family: str, config: Any) -> None:
    for precision in ("fp32", "mixed"):
        for block in describe(family).workload(config, precision).blocks:
            for part in block.inner:
                if isinstance(part, Segment) and part.products:
                    assert sum(product.flops for product in part.products) == part.flops
                elif isinstance(part, Segment) and part.kind == "elementwise":
                    assert part.flops == 0


@with_families
def test_parameters_tensors_and_splits_are_those_of_the_model(family: str, config: Any) -> None:
    module, sharding = model_module(family), sharding_module(family)
    for index, block in enumerate(describe(family).workload(config).blocks):
        built = module.build_blocks(config, index, index + 1)
        named = dict(module.named_parameters(built, index))
        assert block.parameters == sum(p.numel() for p in named.values())
        assert block.tensors == len(named)
        whole = [p.numel() for name, p in named.items() if sharding.tensor_dim(name) is None]
        assert block.whole_parameters == sum(whole), block.name
        weights = sum(p.weight_bytes for p in block.inner if isinstance(p, Segment))
        matrices = [p for n, p in named.items() if p.dim() > 1 and ".token" not in n]
        assert weights == 4 * sum(p.numel() for p in matrices if index > 0)


@with_families
@pytest.mark.parametrize("precision", ["fp32", "fp64", "bf16"])
def test_activations_are_those_that_autograd_keeps(
    family: str, config: Any, precision: Precision
) -> None:
    """Within 3 %: a bias, a mask of the sequence and the like are not described."""
    samples = 3
    work = describe(family).workload(config, precision)
    for index in (0, 1, config.blocks - 1):
        described = samples * work.blocks[index].activation_bytes["none"]
        kept = kept_bytes(family, config, index, samples, precision)
        if index > 0:
            assert kept == pytest.approx(described, rel=0.03), work.blocks[index].name
        else:  # one set of positions serves all samples
            assert kept <= described


@pytest.mark.parametrize(
    ("family", "config"), [(f, c) for f, c in SMALL if c.attention != "unfused"], ids=str
)
def test_selective_keeps_and_repeats_what_torch_does(family: str, config: Any) -> None:
    layer = describe(family).workload(config).blocks[1]
    kept, repeated = selective_bytes_and_flops(family, config)
    assert layer.activation_bytes["selective"] == kept
    assert layer.flops_recomputed("selective") == repeated


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["gpt", "llama"])
def test_a_head_needs_what_it_keeps_and_its_working_bytes(
    family: str, precision: Precision
) -> None:
    sizes = {"layers": 1, "hidden": 8, "heads": 2, "sequence": 64, "vocabulary": 5000}
    config = describe(family).config_from({**sizes, "tied": False})
    head = describe(family).workload(config, precision).blocks[-1]
    described = 4 * (head.activation_bytes["none"] + head.working_bytes)
    assert peak_of_head(family, config, 4, precision) == pytest.approx(described, rel=0.03)


def test_full_keeps_the_input_alone() -> None:
    for family, config in SMALL:
        first, layer, *_ = describe(family).workload(config).blocks
        assert layer.activation_bytes["full"] == first.output_bytes
        assert layer.flops_recomputed("full") == layer.flops_forward
