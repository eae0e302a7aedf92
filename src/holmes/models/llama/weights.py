"""Where a Llama's parameters lie in a Hugging Face folder; Mistral and Qwen alike. No torch."""

from __future__ import annotations

from holmes.models.common.hf.names import FolderLayout, Source
from holmes.models.llama.config import LlamaConfig
from holmes.models.llama.folder import folder_config

__all__ = ["folder_config", "layout"]

LINEARS = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
HEAD_NORMS = {"attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm"}
BIASED = ("attention.query", "attention.key", "attention.value")


def layout(config: LlamaConfig) -> FolderLayout:
    """Every parameter's place."""
    last = config.blocks - 1
    names = {
        "blocks.0.token.weight": "embed_tokens.weight",
        f"blocks.{last}.norm.weight": "norm.weight",
    }
    weights = LINEARS | NORMS | (HEAD_NORMS if config.qk_norm else {})
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer + 1}", f"layers.{layer}"
        names |= {f"{ours}.{a}.weight": f"{theirs}.{b}.weight" for a, b in weights.items()}
        if config.qkv_bias:
            names |= {f"{ours}.{a}.bias": f"{theirs}.{LINEARS[a]}.bias" for a in BIASED}
    sources = {ours: Source(theirs) for ours, theirs in names.items()}
    if not config.tied:
        sources[f"blocks.{last}.projection.weight"] = Source("lm_head.weight")
    return FolderLayout(sources, "model.", passed_over=(".rotary_emb.inv_freq",))
