"""The plain Mixtral: obvious twin, published implementation, counts of its description."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from holmes.models.mixtral.describe import MixtralConfig, parameter_count, workload
from holmes.models.mixtral.model import Mixtral, Mixture, build_blocks
from holmes.workload import Segment

TINY = MixtralConfig(2, 32, 4, 16, 67, key_heads=2, ffn=48, experts=4, top_k=2)
BOUND = 1e-5
"""Largest difference of logits in fp32."""


def mixture(config: MixtralConfig = TINY) -> Mixture:
    torch.manual_seed(3)
    return Mixture(config).double()


def stream(samples: int = 3, config: MixtralConfig = TINY) -> torch.Tensor:
    made = torch.Generator().manual_seed(5)
    size = samples, config.sequence, config.hidden
    return torch.randn(*size, generator=made, dtype=torch.float64)


def test_each_token_goes_through_its_experts_one_after_the_other() -> None:
    layer, x_BSD = mixture(), stream()
    expected = torch.empty_like(x_BSD)
    for sample, token in ((b, s) for b in range(x_BSD.shape[0]) for s in range(x_BSD.shape[1])):
        x_D = x_BSD[sample, token]
        liked = sorted(enumerate(layer.router(x_D).tolist()), key=lambda one: -one[1])[:2]
        total = sum(torch.tensor(value).exp() for _, value in liked)
        expected[sample, token] = sum(
            torch.tensor(value).exp() / total * layer.experts[index](x_D) for index, value in liked
        )
    assert torch.allclose(layer(x_BSD), expected, rtol=1e-6, atol=1e-7)


def test_experts_that_no_token_takes_have_gradients_of_zero_and_others_do_not() -> None:
    layer = mixture()
    with torch.no_grad():
        layer.router.weight[:] = 0.0
        layer.router.weight[:2, 0] = 1.0
    x_BSD = stream()
    x_BSD[..., 0] = 4.0
    layer(x_BSD).square().sum().backward()
    sizes = [float(expert.down.weight.grad.abs().sum()) for expert in layer.experts]
    assert min(sizes[:2]) > 0.0
    assert sizes[2:] == [0.0, 0.0]


def test_gradients_of_the_mixture_are_those_of_finite_differences() -> None:
    small = MixtralConfig(1, 4, 2, 3, 11, ffn=5, experts=3, top_k=2)
    layer, x_BSD = mixture(small), stream(1, small).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x_BSD,))


def test_parameters_and_tensors_are_those_of_the_description() -> None:
    blocks, described = build_blocks(TINY, 0, TINY.blocks, device="meta"), workload(TINY).blocks
    for block, said in zip(blocks, described, strict=True):
        parameters = list(block.parameters())
        assert sum(p.numel() for p in parameters) == said.parameters
        assert len(parameters) == said.tensors
    assert sum(p.numel() for b in blocks for p in b.parameters()) == parameter_count(TINY)


@pytest.mark.parametrize(("experts", "top_k"), [(4, 1), (4, 2), (8, 3)])
def test_flops_of_a_mixture_are_those_of_the_chosen_experts(experts: int, top_k: int) -> None:
    """Whoever takes how many: counted by torch, forward and twice that backward."""
    config = MixtralConfig(1, 32, 4, 24, 67, key_heads=2, ffn=48, experts=experts, top_k=top_k)
    parts = ("router", "mlp_up", "mlp_down")
    block = workload(config).blocks[1]
    described = sum(p.flops for p in block.inner if isinstance(p, Segment) and p.name in parts)
    layer, x_BSD = mixture(config), stream(1, config).requires_grad_()
    with FlopCounterMode(display=False) as forward:
        value = layer(x_BSD)
    with FlopCounterMode(display=False) as backward:
        value.sum().backward()
    assert forward.get_total_flops() == described
    assert backward.get_total_flops() == 2 * described


def test_logits_are_those_of_transformers() -> None:
    transformers: Any = pytest.importorskip("transformers")
    sizes = transformers.MixtralConfig(
        vocab_size=67,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        rms_norm_eps=TINY.norm_epsilon,
        rope_theta=TINY.rotary_base,
        tie_word_embeddings=False,
    )
    torch.manual_seed(11)
    theirs = transformers.MixtralForCausalLM(sizes).eval()
    ours = Mixtral(TINY)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(_value(theirs.state_dict(), name))
        ids = torch.randint(67, (3, 16), generator=torch.Generator().manual_seed(1))
        difference = (ours(ids) - theirs(ids).logits).abs().max()
    assert float(difference) < BOUND


NAMES = {
    "norm1.weight": "input_layernorm.weight",
    "norm2.weight": "post_attention_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "mlp.router.weight": "mlp.gate.weight",
}


def _value(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The value of a parameter of ours: theirs stacks experts, and gate above up."""
    block, inside = name.removeprefix("blocks.").split(".", 1)
    ends = {
        "token.weight": "model.embed_tokens.weight",
        "norm.weight": "model.norm.weight",
        "projection.weight": "lm_head.weight",
    }
    if inside in ends:
        return state[ends[inside]]
    layer = f"model.layers.{int(block) - 1}."
    if inside in NAMES:
        return state[layer + NAMES[inside]]
    _, _, expert, part, _ = inside.split(".")
    if part == "down":
        return state[f"{layer}mlp.experts.down_proj"][int(expert)]
    gate, up = state[f"{layer}mlp.experts.gate_up_proj"][int(expert)].chunk(2)
    return gate if part == "gate" else up
