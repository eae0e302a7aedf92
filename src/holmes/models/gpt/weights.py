"""Where a GPT's parameters lie in a GPT-2's Hugging Face folder. No torch.

GPT-2 keeps the matrices of a layer as [inputs, outputs], and those of queries, keys and
values side by side.
"""

from __future__ import annotations

from holmes.models.common.hf.names import FolderLayout, Source
from holmes.models.gpt.config import GptConfig
from holmes.models.gpt.folder import folder_config

__all__ = ["folder_config", "layout"]

LINEARS = {"attention.output": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
NORMS = {"norm1": "ln_1", "norm2": "ln_2"}
FUSED = ("attention.query", "attention.key", "attention.value")


def layout(config: GptConfig) -> FolderLayout:
    """Every parameter's place.

    Raises:
        ConfigError: it is no GPT-2.
    """
    folder_config(config)
    last = config.blocks - 1
    sources = {
        "blocks.0.token.weight": Source("wte.weight"),
        "blocks.0.position.weight": Source("wpe.weight", longer=True),
        f"blocks.{last}.norm.weight": Source("ln_f.weight"),
        f"blocks.{last}.norm.bias": Source("ln_f.bias"),
    }
    if not config.tied:
        sources[f"blocks.{last}.projection.weight"] = Source("lm_head.weight")
    for layer in range(config.layers):
        sources |= _layer(config, f"blocks.{layer + 1}", f"h.{layer}")
    return FolderLayout(sources, "transformer.", passed_over=(".attn.bias", ".attn.masked_bias"))


def _layer(config: GptConfig, ours: str, theirs: str) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for a, b in NORMS.items():
        for kind in ("weight", "bias"):
            found[f"{ours}.{a}.{kind}"] = Source(f"{theirs}.{b}.{kind}")
    for a, b in LINEARS.items():
        found[f"{ours}.{a}.weight"] = Source(f"{theirs}.{b}.weight", transposed=True)
        found[f"{ours}.{a}.bias"] = Source(f"{theirs}.{b}.bias")
    d = config.hidden
    for index, name in enumerate(FUSED):
        for kind in ("weight", "bias"):
            found[f"{ours}.{name}.{kind}"] = Source(
                f"{theirs}.attn.c_attn.{kind}", kind == "weight", index * d, 3 * d
            )
    return found
