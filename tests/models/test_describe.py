"""The description of a GPT against the torch model and against published formulas."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from holmes.errors import ConfigError
from holmes.models.gpt.describe import (
    PRESETS,
    config_from,
    parameter_count,
    workload,
)
from holmes.models.gpt.model import Gpt
from holmes.models.registry import describe, family_of, model_module
from holmes.workload import Collective, RecomputeMode, Segment


def size_in(name: str) -> float:
    """Parameters that a preset's name promises, 0 when it promises none."""
    size = re.search(r"-([\d.]+)([mbt])$", name)
    return float(size[1]) * {"m": 1e6, "b": 1e9, "t": 1e12}[size[2]] if size else 0.0


@pytest.mark.parametrize("name", [name for name in PRESETS if size_in(name)])
def test_presets_have_the_size_of_their_name(name: str) -> None:
    assert parameter_count(PRESETS[name]) == pytest.approx(size_in(name), rel=0.075)


@pytest.mark.parametrize(
    ("name", "layers", "hidden", "heads", "params"),
    [
        ("gpt-1.7b", 24, 2304, 24, 1.7),
        ("gpt-3.6b", 30, 3072, 32, 3.6),
        ("gpt-7.5b", 36, 4096, 32, 7.5),
        ("gpt-18b", 40, 6144, 48, 18.4),
        ("gpt-39b", 48, 8192, 64, 39.1),
        ("gpt-76b", 60, 10240, 80, 76.1),
        ("gpt-145b", 80, 12288, 96, 145.6),
        ("gpt-310b", 96, 16384, 128, 310.1),
        ("gpt-530b", 105, 20480, 128, 529.6),
        ("gpt-1t", 128, 25600, 160, 1008.0),
    ],
)
def test_megatron_presets_equal_table_1(
    name: str, layers: int, hidden: int, heads: int, params: float
) -> None:
    config = PRESETS[name]
    assert (config.layers, config.hidden, config.heads) == (layers, hidden, heads)
    assert round(parameter_count(config) / 1e9, 1) == params


@pytest.mark.parametrize("name", [n for n in PRESETS if size_in(n) > 1.5e9])
def test_flops_equal_the_closed_form_of_sc21(name: str) -> None:
    """96 B s l h^2 (1 + s/6h + V/16lh) counts forward, backward and a second forward of layers."""
    config = PRESETS[name]
    s, n, h, v = config.sequence, config.layers, config.hidden, config.vocabulary
    formula = 96 * s * n * h * h * (1 + s / (6 * h) + v / (16 * n * h))
    work = workload(config, "mixed")
    again = sum(b.flops_forward for b in work.blocks if b.kind == "transformer")
    assert work.flops_per_sample() + again == pytest.approx(formula, rel=1e-9)


def test_mixed_activations_equal_korthikanti() -> None:
    config = PRESETS["gpt-175b"]
    s, h, a = config.sequence, config.hidden, config.heads
    layer = workload(config, "mixed").blocks[1].activation_bytes
    assert layer["none"] == s * h * (34 + 5 * a * s / h)
    assert layer["selective"] == 34 * s * h
    assert layer["full"] == 2 * s * h
    tp = 8
    layer = workload(config, "mixed").blocks[1]
    assert layer.activation_bytes_on_rank("none", tp) == s * h * (10 + (24 + 5 * a * s / h) / tp)
    assert layer.activation_bytes_on_rank("none", tp, sequence_parallel=True) == (
        s * h * (34 + 5 * a * s / h) / tp
    )
    assert layer.activation_bytes_on_rank("selective", tp, sequence_parallel=True) == (
        34 * s * h / tp
    )
    assert layer.flops_recomputed("selective") == 4 * s * s * h


@pytest.mark.parametrize(
    ("name", "micro", "mode", "sequence_parallel", "gib"),
    [
        ("gpt-22b", 4, "none", False, 59.25),
        ("gpt-22b", 4, "selective", True, 9.5625),
        ("gpt-1t", 1, "none", False, 131.25),
        ("gpt-1t", 1, "selective", True, 26.5625),
    ],
)
def test_activations_of_a_device_equal_those_of_korthikanti_figure_1(
    name: str, micro: int, mode: RecomputeMode, sequence_parallel: bool, gib: float
) -> None:
    """Eight tensor ranks; the first of 64 stages keeps as many micro-batches as there are."""
    config = PRESETS[name]
    layer = workload(config, "mixed").blocks[1]
    kept = layer.activation_bytes_on_rank(mode, 8, sequence_parallel=sequence_parallel)
    assert kept * config.layers * micro / 2**30 == gib


def test_fused_attention_keeps_no_scores() -> None:
    config = replace(PRESETS["gpt-175b"], attention="fused")
    s, h, heads = config.sequence, config.hidden, config.heads
    work = workload(config, "mixed")
    assert (work.attention, workload(PRESETS["gpt-175b"], "mixed").attention) == (
        "fused",
        "unfused",
    )
    layer = work.blocks[1]
    assert layer.activation_bytes["none"] == 34 * s * h
    core = next(p for p in layer.inner if isinstance(p, Segment) and p.attention)
    assert core.products == ()
    assert core.bytes_ == 2 * 4 * s * h
    assert core.attention is not None
    assert sum(p.flops for p in core.attention.products()) == core.flops
    assert core.attention.heads == heads


def test_states_and_boundaries_by_precision() -> None:
    config = PRESETS["gpt-1m"]
    boundary = config.sequence * config.hidden
    for precision, stream, states in (("fp32", 4, 16), ("fp64", 8, 32), ("mixed", 2, 18)):
        work = workload(config, precision)  # type: ignore[arg-type]
        total = work.parameter_bytes + work.gradient_bytes + work.optimizer_bytes
        assert total == states
        for block in work.blocks[:-1]:
            assert block.output_bytes == stream * boundary
    assert workload(config).name == "gpt-1m"
    assert workload(config).tied == (0, config.blocks - 1)


def test_two_tensor_collectives_per_layer_and_direction() -> None:
    config = PRESETS["gpt-3.6b"]
    layer = workload(config, "mixed").blocks[1]
    found = [part for part in layer.inner if isinstance(part, Collective)]
    tensor = [part for part in found if part.axis == "tensor"]
    assert [c.direction for c in tensor].count("forward") == 2
    assert [c.direction for c in tensor].count("backward") == 2
    assert all(c.bytes_ == 2 * config.sequence * config.hidden for c in tensor)
    ring = [part for part in found if part.axis == "context"]
    assert [(c.direction, c.bytes_) for c in ring] == [
        ("forward", 2 * 2 * config.sequence * config.hidden),  # keys and values
        ("backward", 4 * 2 * config.sequence * config.hidden),  # and their gradients
    ]


@pytest.mark.parametrize(
    ("spec", "where", "says"),
    [
        ({"preset": "gpt-1n"}, "model.preset", "gpt-1m"),
        ({"preset": 3}, "model.preset", "must be a name"),
        ({"preset": "gpt-1m", "layer": 3}, "model.layer", "'layers'"),
        ({"preset": "gpt-1m", "heads": 3}, "model.heads", "do not divide"),
        ({"preset": "gpt-1m", "heads": 0}, "model.heads", "between 1"),
        ({"preset": "gpt-1m", "layers": -2}, "model.layers", "between 1"),
        ({"preset": "gpt-1m", "layers": 2.5}, "model.layers", "whole number"),
        ({"preset": "gpt-1m", "layers": True}, "model.layers", "whole number"),
        ({"preset": "gpt-1m", "sequence": float("nan")}, "model.sequence", "whole number"),
        ({"preset": "gpt-1m", "vocabulary": 10**12}, "model.vocabulary", "between 1"),
        ({"preset": "gpt-1m", "mlp": "swigluu"}, "model.mlp", "'swiglu'"),
        ({"preset": "gpt-1m", "positions": None}, "model.positions", "one of"),
        ({"preset": "gpt-1m", "norm": ["layernorm"]}, "model.norm", "one of"),
        ({"preset": "gpt-1m", "tied": "yes"}, "model.tied", "true or false"),
        ({"preset": "gpt-1m", "heads": 128, "positions": "rotary"}, "model.heads", "even"),
        ({"layers": 2, "hidden": 8}, "model", "heads, sequence, vocabulary"),
        ({}, "model", "preset"),
    ],
)
def test_a_bad_model_is_one_clear_error(spec: dict[str, object], where: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from(spec)
    assert caught.value.where == where
    assert says in str(caught.value)


def test_a_preset_may_be_overridden_or_left_out() -> None:
    assert config_from("gpt-1m") == PRESETS["gpt-1m"]
    assert config_from({"family": "gpt", "preset": "GPT-1M", "layers": 7}).layers == 7
    sizes = {"layers": 2, "hidden": 8, "heads": 2, "sequence": 4, "vocabulary": 300}
    assert config_from(sizes).inner == 32


def test_registry_knows_the_family_and_suggests() -> None:
    assert family_of({}) == "gpt"
    assert describe("gpt").config_from("gpt-1m") == PRESETS["gpt-1m"]
    assert model_module("gpt").Gpt is Gpt
    with pytest.raises(ConfigError, match="gpt"):
        family_of({"family": "gtp"})


def test_describing_imports_no_torch() -> None:
    code = (
        "import sys, holmes.models.registry as r; d = r.describe('gpt'); "
        "d.workload(d.PRESETS['gpt-1t'], 'mixed'); import holmes.models.gpt.sharding; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
